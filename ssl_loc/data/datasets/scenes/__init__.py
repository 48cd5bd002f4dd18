"""Procedural scenes: textured objects of fine-grained classes over textured backgrounds, drawn by the project itself.

``params`` says what is drawn, ``shapes`` and ``texture`` are the pencils, ``draw`` makes one scene, ``variants`` makes
the pictures of a backgrounds challenge, ``write`` puts whole sets on disk and ``load`` finds them again.
"""

from ssl_loc.data.datasets.scenes import load  # registers the path form; the pencils are imported where they are used

__all__ = ["load"]
