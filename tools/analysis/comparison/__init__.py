"""Configs trained at equal budget with several seeds, see tools.analysis.compare."""
