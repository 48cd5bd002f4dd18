"""augmenters room."""
