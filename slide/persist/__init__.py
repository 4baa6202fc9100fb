"""TODO persist."""
