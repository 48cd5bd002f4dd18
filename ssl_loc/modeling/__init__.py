"""modeling room."""
