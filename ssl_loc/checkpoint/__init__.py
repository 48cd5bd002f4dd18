"""checkpoint room."""
