"""Weights: reading files safely, official names, loading with a report."""
