"""Pixels on axes: images, masks, heat maps, boxes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb as to_color
from matplotlib.patches import Rectangle
from torch import Tensor

from ssl_loc.visualization.box_labels import BoxLabel, add_label

# Colour of a mask's outline.
OUTLINE = "#F0E442"
# Colour of the thin line around a mask.
FRAME = "#BBBBBB"
# Share of the heat colour where the map is 1; where it is 0 a fifth of it is left, so that edges stay visible.
HEAT_OPACITY, HEAT_FLOOR = 0.62, 0.2


def to_rgb(image: Tensor) -> np.ndarray:
    """uint8 (3, h, w) -> (h, w, 3) for matplotlib."""
    return image.cpu().permute(1, 2, 0).numpy()


def heat_overlay(image: Tensor, heat: Tensor) -> np.ndarray:
    """Blend a map in [0, 1] (h, w) over a uint8 image (3, h, w) -> uint8 (h, w, 3); red is 1, blue is 0."""
    values = heat.cpu().double().clamp(0, 1).numpy()
    color = 255 * colormaps["jet"](values)[..., :3]
    opacity = (HEAT_OPACITY * (HEAT_FLOOR + (1 - HEAT_FLOOR) * values))[..., None]
    return np.rint((1 - opacity) * to_rgb(image) + opacity * color).astype(np.uint8)


def masked_picture(image: Tensor, mask: Tensor) -> np.ndarray:
    """The image where the mask (h, w) is True, mid-grey elsewhere -> uint8 (h, w, 3)."""
    return np.where(mask.cpu().numpy()[..., None], to_rgb(image), np.uint8(127))


def tint(picture: np.ndarray, mask: np.ndarray, color: str, opacity: float = 0.25) -> np.ndarray:
    """Colour a picture (h, w, 3) uint8 where a mask (h, w) is True."""
    rgb = 255 * np.array(to_color(color))
    return np.where(mask[..., None], np.rint((1 - opacity) * picture + opacity * rgb), picture).astype(np.uint8)


def outlined(picture: np.ndarray, mask: np.ndarray, color: str = OUTLINE, px: int = 2) -> np.ndarray:
    """Draw the inner border of a mask (h, w), ``px`` wide, into a picture (h, w, 3) uint8; needs no axes."""
    solid = np.pad(mask, px, mode="edge")
    h, w = mask.shape
    steps = range(2 * px + 1)
    inside = np.all([solid[i : i + h, j : j + w] for i in steps for j in steps], axis=0)
    return np.where((mask & ~inside)[..., None], np.rint(255 * np.array(to_color(color))), picture).astype(np.uint8)


def show(ax: Axes, picture: np.ndarray | None, title: str = "", color: str = "#222222") -> None:
    """Show a picture without axes; None draws an empty cell that says so."""
    ax.set_axis_off()
    ax.set_anchor("N")  # pictures of one row start at one height, whatever their shape
    if picture is None:
        ax.text(0.5, 0.5, "no mask", ha="center", va="center", color="#888888", transform=ax.transAxes)
    elif picture.ndim == 2:
        ax.imshow(picture, cmap="gray", vmin=0, vmax=255 if picture.dtype == np.uint8 else 1, interpolation="nearest")
        _frame(ax)
    else:
        ax.imshow(picture, interpolation="nearest")
    if title:
        ax.set_title(title, fontsize=9, fontweight="normal", color=color, pad=3)


def _frame(ax: Axes) -> None:
    """A thin frame: a mask that is white up to its edges could not be told from the page."""
    ax.set_axis_on()
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set(visible=True, color=FRAME, linewidth=0.6)


def draw_box(
    ax: Axes, box: Sequence[float], color: str, label: str = "", style: str = "-", width: float = 1.8
) -> BoxLabel | None:
    """An XYXY box in pixels. Its label, if any, is returned for ``place_labels``, which finds it a free place."""
    # Pixel i covers [i - .5, i + .5] in matplotlib's picture frame.
    x1, y1, x2, y2 = (float(v) - 0.5 for v in box)
    ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=color, linewidth=width, linestyle=style))
    return add_label(ax, (x1, y1, x2, y2), label, color) if label else None


def mask_outline(ax: Axes, mask: np.ndarray, size: tuple[int, int], color: str = OUTLINE) -> None:
    """Outline a mask (h, w; 0 = background) that covers a picture of ``size`` (H, W)."""
    binary = mask > 0
    if binary.all() or not binary.any():
        return
    rows = (np.arange(mask.shape[0]) + 0.5) * size[0] / mask.shape[0] - 0.5
    columns = (np.arange(mask.shape[1]) + 0.5) * size[1] / mask.shape[1] - 0.5
    ax.contour(columns, rows, binary.astype(float), levels=[0.5], colors=[color], linewidths=1.2)
