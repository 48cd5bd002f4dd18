"""attention room."""
