"""Checks of `vimctl doctor`: a file for each kind of check."""
