"""TODO predict."""
