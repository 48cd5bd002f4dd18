"""Pixels as planes of RGB and Lab."""

from __future__ import annotations

import cv2
import numpy as np


def to_planes(image: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (H, W, 3) RGB -> two float32 (3, h, w) at ``size`` (h, w): RGB 0..1, and Lab with L 0..100."""
    height, width = size
    if image.shape[:2] != size:
        smaller = height * width < image.shape[0] * image.shape[1]
        way = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
        image = cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=way)
    rgb = image.astype(np.float32) * np.float32(1 / 255)
    lab = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB)
    return np.ascontiguousarray(rgb.transpose(2, 0, 1)), np.ascontiguousarray(lab.transpose(2, 0, 1))
