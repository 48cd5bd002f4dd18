"""Colour, blur and solarisation drawn in the worker and applied to the whole batch on the device.

The worker writes what it drew into ``view.extra`` (the same entries the worker forms write): "color_map" (3, 6),
"blur_sigma" () in px and "solarize_at" () in grey values. The device then does, per image: colour map -> clamp -> blur
-> solarise, in float32 without rounding. The mean colour in the map (for contrast) is that of the uint8 view that
arrives, i.e. after all geometric augmenters, as in the worker.

This order is the only one: a pipeline that solarises before it blurs or changes colours is refused. Colour after blur
is accepted (both are linear, so they commute up to clamping and the mean at the borders). A flip may come anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_loc.data.augmenters.base import Augmenter, Context
from ssl_loc.data.augmenters.color_chain import COLOR_MAP, ColorChain, record_map
from ssl_loc.data.augmenters.color_matrix import IDENTITY
from ssl_loc.data.rng import Streams
from ssl_loc.structures import View, Views
from ssl_loc.utils.errors import ConfigError

BLUR_SIGMA = "blur_sigma"
BLUR_NEUTRAL = {BLUR_SIGMA: torch.tensor(0.0)}
SOLARIZE_AT = "solarize_at"
# Above every pixel value.
SOLARIZE_OFF = 256.0
SOLARIZE_NEUTRAL = {SOLARIZE_AT: torch.tensor(SOLARIZE_OFF)}


def blur_radius(sigma: float) -> int:
    """Half the taps of a blur: the Gaussian is cut at 3 sigma."""
    return max(1, math.ceil(3 * sigma))


def solarize(images: Tensor, threshold: Tensor | float) -> Tensor:
    """Invert the values of at least ``threshold`` (0..255)."""
    return torch.where(images >= threshold, 255 - images, images)


class DeferredDraw(Augmenter):
    """Draws what a photometric augmenter would draw and records it, without touching the image."""

    def __init__(self, inner: Augmenter) -> None:
        self.inner = inner
        self.stream = inner.stream
        self.records = inner.records

    def __call__(self, view: View, streams: Streams, context: Context) -> View:
        if isinstance(self.inner, ColorChain):
            color_map = self.inner.draw(streams)
            extra = view.extra if color_map is IDENTITY else record_map(view, color_map)
        else:
            value = self.inner.draw(streams)  # type: ignore[attr-defined]
            extra = {**view.extra, next(iter(self.records)): torch.tensor(value)}
        return View(view.image, view.mask, view.geometry, extra)


class DevicePhotometric:
    """Applies what the workers recorded: ``Views`` on any device -> ``Views`` with float32 images in 0..255.

    Args:
        names: entries of ``Views.extra`` that the pipelines record; each is (N, V, ...).
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)

    @torch.no_grad()
    def __call__(self, views: Views) -> Views:
        missing = [name for name in self.names if name not in views.extra]
        if missing:
            raise ConfigError(
                f"the batch carries no '{missing[0]}' in Views.extra, which AUGMENT.PHOTOMETRIC_ON 'device' needs; "
                "make it with the pipelines of the same config"
            )
        images = [
            self.apply(image, {n: views.extra[n][:, v] for n in self.names}) for v, image in enumerate(views.images)
        ]
        return replace(views, images=images)

    def apply(self, images: Tensor, drawn: dict[str, Tensor]) -> Tensor:
        """One view of the batch: ``images`` (N, 3, h, w) uint8, ``drawn`` with leading N -> float32 0..255."""
        # A GPU wants the whole batch at once; a CPU wants what its cache holds, one image (4 times faster).
        step = len(images) if images.is_cuda else 1
        out = torch.empty(images.shape, dtype=torch.float32, device=images.device)
        for i in range(0, len(images), step):
            out[i : i + step] = self._apply(images[i : i + step], {n: d[i : i + step] for n, d in drawn.items()})
        return out

    @staticmethod
    def _apply(images: Tensor, drawn: dict[str, Tensor]) -> Tensor:
        x = images.to(torch.float32, memory_format=torch.contiguous_format)
        if COLOR_MAP in drawn:
            x = apply_color_maps(x, drawn[COLOR_MAP])
        if BLUR_SIGMA in drawn:
            x = blur_batch(x, drawn[BLUR_SIGMA]) if x.is_cuda else blur_on_cpu(x, drawn[BLUR_SIGMA])
        if SOLARIZE_AT in drawn:
            x = solarize(x, drawn[SOLARIZE_AT].view(-1, 1, 1, 1))
        return x


def apply_color_maps(images: Tensor, maps: Tensor) -> Tensor:
    """``A x + B m`` per image, clamped: images float (N, 3, h, w), maps (N, 3, 6), m the mean of each image."""
    n, _, h, w = images.shape
    x = images.flatten(2)
    offset = maps[:, :, 3:] @ x.mean(2, keepdim=True)
    return torch.baddbmm(offset, maps[:, :, :3], x).clamp_(0, 255).view(n, 3, h, w)


def blur_batch(images: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur with one sigma per image (0 = none): images float (N, 3, h, w), sigma (N,)."""
    chosen = sigma.nonzero()[:, 0]
    if len(chosen) == 0:
        return images
    s = sigma[chosen]
    radius = blur_radius(float(s.max()))
    taps = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    # As in the worker, each Gaussian is cut at its own 3 sigma.
    inside = taps.abs() <= (3 * s).ceil().clamp(min=1)[:, None]
    kernel = torch.exp(-0.5 * (taps / s[:, None]) ** 2) * inside
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)[:, None]
    k, (h, w) = 3 * len(chosen), images.shape[2:]
    x = F.pad(images[chosen], [radius] * 4, mode="replicate").view(1, k, h + 2 * radius, w + 2 * radius)
    x = F.conv2d(x, kernel[:, :, :, None], groups=k)
    x = F.conv2d(x, kernel[:, :, None, :], groups=k)
    x = x.view(-1, 3, h, w)
    return x if len(chosen) == len(images) else images.index_copy(0, chosen, x)


def blur_on_cpu(images: Tensor, sigma: Tensor) -> Tensor:
    """The same as :func:`blur_batch` by OpenCV's separable filter, which is 4 times faster than torch on a CPU."""
    out = images.contiguous().clone()
    for image, s in zip(out, sigma.tolist(), strict=True):
        if s > 0:
            kernel = cv2.getGaussianKernel(2 * blur_radius(s) + 1, s, cv2.CV_32F)
            for plane in image.numpy():
                cv2.sepFilter2D(plane, -1, kernel, kernel, dst=plane, borderType=cv2.BORDER_REPLICATE)
    return out


def neutral_records(pipelines: Sequence[Sequence[Augmenter]]) -> dict[str, Any]:
    """Every entry any augmenter records, at its neutral value: all views of a batch carry the same names."""
    return {name: value for steps in pipelines for step in steps for name, value in step.records.items()}


def check_deferred(names: Sequence[str], where: str) -> None:
    """Refuse an order of recorded operations that the device cannot keep."""
    for earlier, later in zip(names, names[1:], strict=False):
        if earlier == SOLARIZE_AT:
            raise ConfigError(
                f"{where} has '{later}' after a solarisation, which AUGMENT.PHOTOMETRIC_ON 'device' cannot do (it "
                "applies colour, blur, solarisation in this order); reorder, or set AUGMENT.PHOTOMETRIC_ON 'worker'"
            )
    for name in set(names):
        if name != COLOR_MAP and names.count(name) > 1:
            raise ConfigError(
                f"{where} records '{name}' twice, which AUGMENT.PHOTOMETRIC_ON 'device' cannot do; drop one, or set "
                "AUGMENT.PHOTOMETRIC_ON 'worker'"
            )
