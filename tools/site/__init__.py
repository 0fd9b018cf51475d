"""The site that `make docs` builds of the pages of the repository."""
