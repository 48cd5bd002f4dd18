"""layers room."""
