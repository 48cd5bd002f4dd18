"""Built-in kinds of data; importing this room registers them in the catalog."""

from ssl_loc.data.datasets import (
    aircraft,
    birds,
    cars,
    coco,
    folder,
    imagenet,
    inat2018,
    places205,
    scenes,
    voc,
)

__all__ = ["aircraft", "birds", "cars", "coco", "folder", "imagenet", "inat2018", "places205", "scenes", "voc"]
