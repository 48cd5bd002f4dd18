"""The only place that opens images for pretraining and evaluation, and that encodes those of sets it makes.

JPEG, nearly every photo there is, goes through libjpeg-turbo directly (simplejpeg where installed, else OpenCV);
whatever is unusual goes through PIL. EXIF orientation is never applied: annotations and maps of COCO and of most
saliency tools are in the order of the stored pixels, and image and mask must agree.
"""

from __future__ import annotations

import os

import cv2
import numpy as np
from PIL import Image

from ssl_loc.saliency.map_io import PIL_ERRORS, eight_bit, read_map
from ssl_loc.utils.errors import DataError

try:
    import simplejpeg
except ImportError:  # an extra ("fast"): OpenCV decodes the same files, about 1.2 times slower
    simplejpeg = None

__all__ = ["encode_image", "read_image", "read_map", "read_size"]

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
# What pictures that the project makes are written with.
_JPEG_QUALITY, _PNG_COMPRESSION = 92, 3
# Colour spaces that libjpeg-turbo converts to RGB; CMYK and YCCK need PIL.
_TURBO_SPACES = ("YCbCr", "RGB", "Gray")


def read_image(path: str | os.PathLike, trim_bottom: int = 0) -> np.ndarray:
    """Decode any picture -> uint8 (H, W, 3), RGB, C-contiguous.

    Grey, palette, CMYK and alpha pictures are converted (alpha is composited on black); 16-bit and float pictures are
    rescaled linearly to 8 bit.

    Args:
        path: any picture.
        trim_bottom: rows to leave out at the bottom (``Record.trim_bottom``).

    Raises:
        DataError: the file is missing, cut off or no picture; the message has its path.
    """
    try:
        with open(path, "rb") as stream:
            data = stream.read()
    except OSError as error:
        raise DataError(f"cannot read image {path}: {error.strerror or error}") from None
    image = decode_jpeg(data) if data[:2] == _JPEG_START else None
    if image is None:
        image = decode_with_pil(path)
    return image[: trimmed(path, image.shape[0], trim_bottom)]


def trimmed(path: str | os.PathLike, height: int, trim_bottom: int) -> int:
    """Rows that are left; :class:`DataError` where none is."""
    if trim_bottom and height <= trim_bottom:
        raise DataError(f"image {path} has {height} rows, of which {trim_bottom} at the bottom are to be left out")
    return height - trim_bottom


def read_size(path: str | os.PathLike, trim_bottom: int = 0) -> tuple[int, int]:
    """(height, width) of the stored pixels without the rows left out, from the file's header alone.

    Raises:
        DataError: the file is missing or no picture.
    """
    try:
        with Image.open(path) as image:
            return trimmed(path, image.height, trim_bottom), image.width
    except PIL_ERRORS as error:
        raise DataError(f"cannot read image {path}: {getattr(error, 'strerror', None) or error}") from None


def decode_jpeg(data: bytes) -> np.ndarray | None:
    """Fast decoding of an ordinary, complete JPEG; None for anything that PIL should look at instead."""
    if simplejpeg is not None:
        try:
            if simplejpeg.decode_jpeg_header(data)[2] not in _TURBO_SPACES:
                return None
            return simplejpeg.decode_jpeg(data, colorspace="RGB")
        except ValueError:  # damaged or unusual (strict mode): PIL decides whether it can be read
            return None
    return decode_jpeg_with_opencv(data)


def decode_jpeg_with_opencv(data: bytes) -> np.ndarray | None:
    """The same through OpenCV, which fills up a cut-off file with grey, so the end marker is checked first."""
    if data.rstrip(b"\0")[-2:] != _JPEG_END or jpeg_components(data) not in (1, 3):
        return None
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)
    return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def jpeg_components(data: bytes) -> int:
    """Number of colour components in a JPEG's frame header (4 = CMYK or YCCK); 0 if there is no frame header."""
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        # Start-of-frame markers are C0..CF without the tables C4, C8, CC.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return data[at + 9]
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return 0


def decode_with_pil(path: str | os.PathLike) -> np.ndarray:
    """Decode through PIL; right for every mode, slower for JPEG."""
    try:
        with Image.open(path) as image:
            return eight_bit(image, "RGB")
    except PIL_ERRORS as error:
        raise DataError(f"cannot decode image {path}: {error}") from None
    except DataError as error:
        raise DataError(f"cannot decode image {path}: {error}") from None


def encode_image(image: np.ndarray, suffix: str) -> bytes:
    """uint8 RGB (H, W, 3) or grey (H, W) -> the bytes of a file, ".jpg" or another suffix that OpenCV knows."""
    data = image if image.ndim == 2 else np.ascontiguousarray(image[..., ::-1])
    jpeg = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    done, code = cv2.imencode(
        suffix, data, jpeg if suffix == ".jpg" else [cv2.IMWRITE_PNG_COMPRESSION, _PNG_COMPRESSION]
    )
    if not done:
        raise DataError(f"OpenCV could not encode a picture as {suffix}")
    return code.tobytes()
