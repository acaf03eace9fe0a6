"""Evaluation sweeps: many ways to sample from what is trained, judged alike and put beside each other."""
