"""Error patterns: photo, input gradient and nearest neighbours, model under model (DiLo paper, Figures 2 and 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor

from ssl_loc.evaluation.data import EvalData
from ssl_loc.evaluation.features import extract
from ssl_loc.evaluation.input_gradients import InputGradients, gradient_maps, measure
from ssl_loc.evaluation.masked_photos import NO_MASKS, MaskedPhotos, PhotoBatch, join
from ssl_loc.evaluation.neighbours import Photos, photos_of
from ssl_loc.evaluation.weights import Weights
from ssl_loc.layers.neighbours import neighbours
from ssl_loc.utils.errors import ConfigError, DataError, check_choice
from ssl_loc.utils.progress import progress_bar
from ssl_loc.visualization.neighbours import neighbour_cell
from ssl_loc.visualization.pictures import outlined, to_rgb
from ssl_loc.visualization.report import Picture
from ssl_loc.visualization.strips import RIGHT, WRONG, Block, Cell, Row, strips_figure, verdict
from ssl_loc.visualization.style import INK, MET, UNMET, method_colors

HEADING = "Input gradients"
# "errors": what the first model gets wrong, the gradient lying on the background first. "spread": evenly over the
# data. "auto": errors where classes are known.
SHOW = ("auto", "errors", "spread")
# Photos among which errors are searched, evenly spread; a backward pass each.
CANDIDATES = 240
NEIGHBOURS = 3
# Width of the average that a gradient is drawn with, share of its side.
SMOOTHING = 0.02


@dataclass
class GradientPanel:
    """One model's view of N photos.

    Attributes:
        classes: names in the classifier's numbering.
        maps: float32 (N, S, S) in [0, 1].
        predicted: int64 (N,).
        energy: float64 (N,), share of the map's sum that lies on the object.
        bank: photos that the classifier was trained on.
        index, cosine: (N, k) nearest photos of ``bank``.
    """

    label: str
    classes: list[str]
    maps: Tensor
    predicted: Tensor
    energy: np.ndarray
    bank: Photos
    index: Tensor
    cosine: Tensor


def compute_gradients(
    weights: Sequence[Weights], data: EvalData, protocol: InputGradients, count: int, show: str = "auto"
) -> tuple[PhotoBatch, list[GradientPanel]]:
    """``count`` photos and every model's gradients and neighbours of them.

    Raises:
        ConfigError: the models look at photos of different sizes.
        DataError: errors are asked for, and no class is known or nothing is wrong.
    """
    check_choice("--show", show, SHOW)
    sizes = {w.label: protocol.features.input_size(w) for w in weights}
    if len(set(sizes.values())) > 1:
        raise ConfigError(f"the models were trained at different sizes ({sizes}); give one with --set SIZE N")
    batch = _candidates(weights[0], data, protocol, count, show)
    return batch, [_panel(w, data, protocol, batch) for w in weights]


def _candidates(w: Weights, data: EvalData, protocol: InputGradients, count: int, show: str) -> PhotoBatch:
    """The photos to draw, chosen by what the first model does with them."""
    probe, trunk = protocol.probe.train(w, data), w.trunk()
    limit = min(data.limit or CANDIDATES, CANDIDATES)
    photos = MaskedPhotos(replace(data, limit=limit), protocol.features.input_size(w), probe.classes)
    if show == "spread":
        return photos.sample(count)
    batches, predicted, rows = [], [], []
    with progress_bar(total=len(photos), desc=f"looking for errors of {w.label}", unit="image") as bar:
        for batch in photos.batches(protocol.features.batch_size):
            maps, guess = gradient_maps(trunk, probe, batch, protocol.probe, protocol.percentile)
            batches.append(batch)
            predicted.append(guess)
            rows.append(measure(maps, batch.masks))
            bar.update(len(batch.names))
    whole = join(batches)
    if show == "auto" and bool((whole.labels < 0).all()):
        return photos.sample(count)
    energy, share = (np.concatenate([row[key] for row in rows]) for key in ("energy", "mask_share"))
    return whole.select(pick_errors(whole.labels, torch.cat(predicted), energy, share)[:count])


def pick_errors(labels: Tensor, predicted: Tensor, energy: np.ndarray, share: np.ndarray) -> list[int]:
    """Numbers of the photos that are classified wrongly, those whose gradient avoids the object most first.

    Avoiding is measured by the gradient's share on the object over the object's share of the picture.

    Raises:
        DataError: no class is known, or everything is right.
    """
    known = labels >= 0
    if not bool(known.any()):
        raise DataError("errors can only be shown of photos whose class the classifier knows; give --show spread")
    wrong = (known & (labels != predicted)).nonzero()[:, 0].tolist()
    if not wrong:
        raise DataError(f"the classifier is right on all of {int(known.sum())} photos; give --show spread")
    return sorted(wrong, key=lambda i: (energy[i] / share[i] if share[i] > 0 else 0.0, i))


def _panel(w: Weights, data: EvalData, protocol: InputGradients, batch: PhotoBatch) -> GradientPanel:
    probe, trunk = protocol.probe.train(w, data), w.trunk()
    maps, predicted = gradient_maps(trunk, probe, batch, protocol.probe, protocol.percentile)
    bank = photos_of(protocol.probe.split(data))
    train = extract(w, bank.source, protocol.features)[0]
    # One more than is drawn: a photo that is in the bank itself is left out.
    cosine, index = neighbours(train, trunk.features(batch.images), NEIGHBOURS + 1, w.device)
    kept = [[j for j in row if bank.source.records[j].path != path] for row, path in _rows(index, batch.paths)]
    k = min(NEIGHBOURS, *(len(row) for row in kept))
    places = torch.tensor([row[:k] for row in kept])
    values = torch.stack([c[torch.isin(i, p)] for c, i, p in zip(cosine, index, places, strict=True)])
    return GradientPanel(
        w.label, probe.classes, maps, predicted, measure(maps, batch.masks)["energy"], bank, places, values
    )


def _rows(index: Tensor, paths: Sequence[str]) -> list[tuple[list[int], str]]:
    return list(zip(index.tolist(), paths, strict=True))


def gradients_figure(batch: PhotoBatch, panels: Sequence[GradientPanel]) -> Figure:
    """Blocks: photos. Rows: models. Columns: photo with its mask's outline, gradient, nearest training photos."""
    colors = method_colors([panel.label for panel in panels])
    classes = panels[0].classes
    blocks = []
    for i in range(len(batch.names)):
        rows = [
            Row([_gradient_cell(p, batch, i), *_near(p, batch, i)], p.label if len(panels) > 1 else "", colors[p.label])
            for p in panels
        ]
        label = int(batch.labels[i])
        share = float(batch.masks[i].double().mean())
        lines = [classes[label] if label >= 0 else "class unknown", f"object: {share:.0%}" if share else ""]
        photo = outlined(to_rgb(batch.images[i]), batch.masks[i].numpy())
        blocks.append(Block(Cell(photo, [line for line in lines if line]), rows))
    heads = ["photo", "gradient", "nearest", *(f"{n}." for n in range(2, NEIGHBOURS + 1))]
    known = bool((batch.labels >= 0).any())
    key = [(f"{RIGHT} class of the photo", MET), (f"{WRONG} another class", UNMET)] if known else []
    return strips_figure(blocks, heads[: 2 + panels[0].index.shape[1]], key)


def _gradient_cell(panel: GradientPanel, batch: PhotoBatch, i: int) -> Cell:
    label = int(batch.labels[i])
    frame, mark = verdict(None if label < 0 else int(panel.predicted[i]) == label)
    lines = [f"{mark} {panel.classes[int(panel.predicted[i])]}".strip()]
    if bool(batch.masks[i].any()):
        lines.append(f"on object: {panel.energy[i]:.0%}")
    picture = outlined(gradient_picture(panel.maps[i]), batch.masks[i].numpy(), px=1)
    return Cell(picture, lines, frame, frame or INK)


def _near(panel: GradientPanel, batch: PhotoBatch, i: int) -> list[Cell]:
    label = int(batch.labels[i])
    return [
        neighbour_cell(panel.bank, j, c, None if label < 0 else int(panel.bank.labels[j]) == label, alike=False)
        for j, c in zip(panel.index[i].tolist(), panel.cosine[i].tolist(), strict=True)
    ]


def gradient_picture(values: Tensor) -> np.ndarray:
    """A map (S, S) in [0, 1] -> uint8 (S, S, 3), dark to bright.

    Gradients are speckled by the strides of the network: they are averaged over about 2 % of the side for the eye, as
    saliency from gradients is (numbers are taken without it).
    """
    px = 2 * round(SMOOTHING * len(values) / 2) + 1
    smooth = F.avg_pool2d(values[None, None].double(), px, stride=1, padding=px // 2, count_include_pad=False)[0, 0]
    top = float(smooth.max())
    return np.rint(255 * colormaps["inferno"]((smooth / top if top > 0 else smooth).numpy())[..., :3]).astype(np.uint8)


def gradients_picture(
    weights: Sequence[Weights], data: EvalData, protocol: InputGradients, count: int = 6, show: str = "auto"
) -> Picture:
    """The figure, and what to look for in it."""
    batch, panels = compute_gradients(weights, data, protocol, count, show)
    return Picture(
        gradients_figure(batch, panels), gradients_caption(data, panels[0], shows_errors(show, batch.labels))
    )


def shows_errors(show: str, labels: Tensor) -> bool:
    """Whether the photos, of classes int64 (N,) with -1 unknown, were chosen among errors (see SHOW)."""
    return show == "errors" or (show == "auto" and bool((labels >= 0).any()))


def gradients_caption(data: EvalData, first: GradientPanel, errors: bool = True) -> str:
    """What is drawn and what to look for; ``errors``: the photos are errors of the first model, else a spread."""
    which = (
        f"These are errors of {first.label}, the gradient avoiding the object first."
        if errors
        else "The photos are spread evenly over the data."
    )
    masks = "" if data.masks == NO_MASKS else " The outline is the object's mask."
    return (
        f"Which pixels move the class score of a linear classifier on frozen features (bright: strongly; averaged a "
        f"little for the eye, not for the numbers), its answer, "
        f"and the training photos nearest to each photo. {which}{masks} "
        "Look for gradients spread over the background, and for neighbours that share it: the error patterns of "
        "Figure 2 of the DiLo paper."
    )
