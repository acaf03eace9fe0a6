"""Tests of VIM; the folders mirror the tree, `support.py` and `conftest.py` hold what they share."""
