"""Pictures that cost what photos cost: drawn JPEGs of a given size in bytes, with maps, for timing loaders."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from ssl_loc.saliency.manifest import write_manifest
from ssl_loc.saliency.map_io import write_map

WIDTH, HEIGHT = 640, 480
# Photos of COCO at 640 x 480 take about this much; entropy decoding is three quarters of a JPEG's cost.
BYTES = 89_000
# Amplitude spectra of photos fall with about this power of the frequency (Field 1987).
SPECTRUM_POWER = 1.0
_QUALITIES = (30, 98)


def draw_photo(rng: np.random.Generator) -> np.ndarray:
    """A picture with the spectrum of photos and muted colours -> uint8 (480, 640, 3), RGB."""
    light = _noise(rng)[:, :, None] * 45
    chroma = np.stack([_noise(rng) for _ in range(3)], 2) * 15
    return (light + chroma + 118).clip(0, 255).astype(np.uint8)


def _noise(rng: np.random.Generator) -> np.ndarray:
    """Noise of mean 0 and standard deviation 1 with a 1/f spectrum -> float (480, 640)."""
    fy, fx = np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)
    frequency = np.hypot(fy, fx)
    frequency[0, 0] = 1
    phase = np.fft.rfft2(rng.normal(size=(HEIGHT, WIDTH)))
    field = np.fft.irfft2(phase / frequency**SPECTRUM_POWER, (HEIGHT, WIDTH))
    field -= field.mean()
    return field / field.std()


def encode_photo(image: np.ndarray, target: int = BYTES) -> bytes:
    """JPEG of about ``target`` bytes: the highest quality that stays below."""
    low, high = _QUALITIES
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    best = b""
    while low <= high:
        quality = (low + high) // 2
        data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        if len(data) <= target:
            best, low = data, quality + 1
        else:
            high = quality - 1
    return best or data


def draw_map(rng: np.random.Generator, reduce: int) -> np.ndarray:
    """A blob of a fifth of the picture -> uint8 (480 / reduce, 640 / reduce), 0 or 255."""
    h, w = HEIGHT // reduce, WIDTH // reduce
    y, x = np.mgrid[:h, :w]
    cx, cy = rng.uniform(0.35, 0.65, 2) * (w, h)
    # Semi-axes of an ellipse whose area is a fifth of the picture.
    a, b = np.array([w, h]) * (0.2 / np.pi) ** 0.5
    inside = ((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 < 1
    return np.where(inside, 255, 0).astype(np.uint8)


def write_photos(folder: Path, count: int, reduce: int, seed: int = 0) -> float:
    """Write ``count`` photos to folder/images and maps at 1 / ``reduce`` to folder/maps -> mean size in bytes."""
    (folder / "images").mkdir(parents=True)
    sizes = []
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        data = encode_photo(draw_photo(rng))
        sizes.append(len(data))
        (folder / "images" / f"{number:04d}.jpg").write_bytes(data)
        write_map(folder / "maps" / f"{number:04d}.png", draw_map(rng, reduce))
    write_manifest(folder / "maps", estimator="drawn", preset="", uses_labels=False, version="1")
    return float(np.mean(sizes))
