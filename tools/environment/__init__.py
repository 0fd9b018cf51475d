"""Setting up the environment of the Makefile; the standard library alone."""
