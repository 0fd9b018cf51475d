"""The 2-D SSM inside networks of other packages."""
