"""Algorithms for the states of the 2-D SSM; each computes the same two maps."""
