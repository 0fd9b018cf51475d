"""What leaves PyTorch."""
