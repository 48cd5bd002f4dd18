"""Pixel values of any depth to 8 bit, linearly."""

from __future__ import annotations

import numpy as np

from ssl_loc.utils.errors import DataError


def to_uint8(values: np.ndarray) -> np.ndarray:
    """Rescale an array of any number type linearly to uint8 (PIL's own conversion clips instead).

    uint8 passes; bool becomes 0 / 255; integers within 0..65535 are taken as 16 bit (v / 257); floats within 0..1 are
    scaled by 255; anything else is stretched from its minimum..maximum to 0..255 (a constant becomes 0).

    Raises:
        DataError: a value is not finite.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * 255
    if not np.isfinite(values).all():
        raise DataError("the pixel values are not all finite; expected numbers")
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if np.issubdtype(values.dtype, np.integer) and low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    elif np.issubdtype(values.dtype, np.floating) and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    scale = 255.0 / (high - low) if high > low else 0.0
    return np.rint((values.astype(np.float64) - low) * scale).astype(np.uint8)
