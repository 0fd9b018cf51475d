"""Scripts that look at models and results."""
