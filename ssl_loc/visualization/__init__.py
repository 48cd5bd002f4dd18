"""visualization room."""
