"""Built-in kinds of data; importing this room registers them in the catalog."""

from ssl_loc.data.datasets import coco, folder, scenes, voc

__all__ = ["coco", "folder", "scenes", "voc"]
