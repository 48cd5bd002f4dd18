"""Small tools every room may use; depends on no other room."""
