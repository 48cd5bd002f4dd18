"""head room."""
