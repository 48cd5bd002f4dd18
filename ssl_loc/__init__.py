"""ssl_loc: localization-aware self-supervised pretraining on scene photos.

The package root holds the version only; import the room you need, e.g. ``ssl_loc.structures``.
"""

__version__ = "0.1.0"
