"""Command lines of the repository; `python -m tools.demo` and its like."""
