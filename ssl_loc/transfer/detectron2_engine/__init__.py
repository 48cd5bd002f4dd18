"""detectron2_engine room."""
