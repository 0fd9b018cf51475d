"""The demo: generated data, short trainings, results; `python -m tools.demo`."""
