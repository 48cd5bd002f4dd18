"""torchvision_engine room."""
