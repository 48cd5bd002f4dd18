"""saliency room."""
