"""How reliable the package is, in figures: `python -m tools.reliability.run`."""
