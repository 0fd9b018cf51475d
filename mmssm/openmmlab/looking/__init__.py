"""Models of configs and names as what `mmssm.analysis` looks at."""
