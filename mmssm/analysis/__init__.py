"""What looks at a model."""
