"""The names of released weights, a file for each family."""
