"""TODO lsh."""
