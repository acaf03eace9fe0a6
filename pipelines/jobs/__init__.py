"""Clusters that a run can be sent to: profiles, and jobs on them."""
