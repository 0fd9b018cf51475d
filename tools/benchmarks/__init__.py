"""Time, memory and parity of the package, measured."""
