"""backbone room."""
