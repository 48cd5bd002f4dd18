"""The sections of a report that need weights and images: where models look, what is alike to them, why they err."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ssl_loc.config import CfgNode, construct
from ssl_loc.evaluation.class_grounding import ClassGrounding
from ssl_loc.evaluation.data import EvalData
from ssl_loc.evaluation.grounding import Grounding
from ssl_loc.evaluation.input_gradients import InputGradients
from ssl_loc.evaluation.neighbours import NearestNeighbours
from ssl_loc.evaluation.weights import Weights
from ssl_loc.visualization import class_cams, gradients, neighbours
from ssl_loc.visualization.cams import cams_sheet, compute_cams
from ssl_loc.visualization.report import Gallery, Picture, Section

CAMS = "Where the models look"


def model_pictures(
    weights: Sequence[Weights], data: EvalData, options: CfgNode, count: int = 6
) -> dict[str, Callable[[], Section]]:
    """Heading -> makes the section of ``count`` photos.

    Making one raises a UserError where these weights or this data cannot have it: a trunk without its head has no
    similarity, photos without labels have no classifier.
    """
    parts: dict[str, tuple[Any, Callable[..., Section]]] = {
        CAMS: (construct(Grounding, options), cams_section),
        class_cams.HEADING: (construct(ClassGrounding, options), class_cams_section),
        neighbours.HEADING: (construct(NearestNeighbours, options), neighbours_section),
        gradients.HEADING: (construct(InputGradients, options), gradients_section),
    }
    return {heading: partial(_make, weights, data, *part, count) for heading, part in parts.items()}


def _make(
    weights: Sequence[Weights], data: EvalData, protocol: Any, section: Callable[..., Section], count: int
) -> Section:
    for w in weights:
        protocol.check_weights(w)
    protocol.check_data(data)
    return section(weights, data, protocol, count)


def cams_section(weights: Sequence[Weights], data: EvalData, protocol: Grounding, count: int = 6) -> Section:
    """A small picture per crop, two beside each other."""
    batch, panels = compute_cams(weights, data, protocol, count)
    caption = (
        "Grad-CAM of matching the query with the masked key (red: the match depends on it), with the IoU of its "
        "strongest part and the query's mask. Same crops for every model."
    )
    pictures = [
        Picture(cams_sheet(batch, panels, i), alt="a crop, its key and mask, and every model's Grad-CAM")
        for i in range(len(batch.names))
    ]
    return Section(CAMS, figures=[Gallery(pictures, caption, columns=2)])


def class_cams_section(weights: Sequence[Weights], data: EvalData, protocol: ClassGrounding, count: int = 6) -> Section:
    picture = class_cams.class_cams_picture(weights, data, protocol, count)
    return Section(class_cams.HEADING, figures=[picture])


def neighbours_section(
    weights: Sequence[Weights], data: EvalData, protocol: NearestNeighbours, count: int = 6
) -> Section:
    """A small picture per query, two beside each other."""
    found = neighbours.compute_neighbours(weights, data, protocol)
    labels = [w.label for w in weights]
    pictures = [
        Picture(neighbours.neighbours_figure(found, labels, query[None]), alt="a photo and its nearest neighbours")
        for query in neighbours.choose(found[0], count)
    ]
    caption = neighbours.neighbours_caption(found[0], neighbours.SHOW[0], labels[0])
    return Section(neighbours.HEADING, figures=[Gallery(pictures, caption, columns=2)])


def gradients_section(weights: Sequence[Weights], data: EvalData, protocol: InputGradients, count: int = 6) -> Section:
    """A small picture per photo, two beside each other."""
    batch, panels = gradients.compute_gradients(weights, data, protocol, count, gradients.SHOW[0])
    pictures = [
        Picture(
            gradients.gradients_figure(batch.select([i]), [_only(panel, i) for panel in panels]),
            alt="a photo, its input gradient and its nearest neighbours",
        )
        for i in range(len(batch.names))
    ]
    caption = gradients.gradients_caption(data, panels[0], gradients.shows_errors(gradients.SHOW[0], batch.labels))
    return Section(gradients.HEADING, figures=[Gallery(pictures, caption, columns=2)])


def _only(panel: gradients.GradientPanel, i: int) -> gradients.GradientPanel:
    """The panel of one of its photos."""
    one = slice(i, i + 1)
    return replace(
        panel,
        maps=panel.maps[one],
        predicted=panel.predicted[one],
        energy=panel.energy[one],
        index=panel.index[one],
        cosine=panel.cosine[one],
    )
