"""TODO ranks."""
