"""Masks as COCO run-length codes, checked before anything uses them.

pycocotools fills what a truncated code leaves out with whatever the memory held, and says nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ssl_loc.utils.errors import DataError


def decode_run_lengths(code: dict[str, Any]) -> np.ndarray:
    """A COCO run-length code, compressed or a list of counts -> uint8 (height, width) of 0 and 1.

    Raises:
        ValueError: it is damaged.
    """
    height, width, runs = _runs(code)
    return np.repeat(np.arange(len(runs), dtype=np.uint8) & 1, runs).reshape((height, width), order="F")


def check_run_lengths(code: dict[str, Any], record: dict[str, Any]) -> None:
    """Refuse a damaged code, and one of another size than its image, without drawing it.

    Args:
        code: of an object's mask.
        record: the image's dict (file_name, height, width).

    Raises:
        DataError: naming the image.
    """
    try:
        height, width, _ = _runs(code)
    except ValueError as error:
        raise DataError(f"the mask of an object in {record['file_name']} cannot be read: {error}") from None
    if (height, width) != (record["height"], record["width"]):
        raise DataError(
            f"the mask of an object in {record['file_name']} is {width}x{height} px but the image is "
            f"{record['width']}x{record['height']}; image and annotation do not belong together"
        )


def _runs(code: dict[str, Any]) -> tuple[int, int, np.ndarray]:
    """(height, width, lengths of runs of zeros and ones in turn, down the columns)."""
    try:
        height, width = (int(side) for side in code["size"])
        counts = code["counts"]
        runs = np.asarray(counts, dtype=np.int64) if isinstance(counts, list) else _uncompressed(counts)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"it is no run-length code ({error})") from None
    if (runs < 0).any() or runs.sum() != height * width:
        raise ValueError(f"its runs cover {runs[runs > 0].sum()} of {height * width} pixels")
    return height, width, runs


def _uncompressed(text: str | bytes) -> np.ndarray:
    """The counts in COCO's text form: 5 bits per character, lowest first, a 6th says that more follow; each number
    from the fourth on is the difference to the one two before."""
    bits = np.frombuffer(text.encode("ascii") if isinstance(text, str) else text, dtype=np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(bits & 0x20 == 0)
    if not len(last) or last[-1] != len(bits) - 1:
        raise ValueError("it ends within a number")
    first = np.concatenate([[0], last[:-1] + 1])
    place = 5 * (np.arange(len(bits)) - np.repeat(first, last - first + 1))
    numbers = np.add.reduceat((bits & 0x1F) << place, first)
    numbers -= np.where(bits[last] & 0x10, 1 << (place[last] + 5), 0)  # the top bit is the sign
    numbers[1::2], numbers[2::2] = numbers[1::2].cumsum(), numbers[2::2].cumsum()
    return numbers
