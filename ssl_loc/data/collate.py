"""From images with views to the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from ssl_loc.data.mapper import MappedImage
from ssl_loc.structures import GeometryBatch, View, Views
from ssl_loc.utils.errors import ConfigError

PASSED_OVER = "passed_over"


def collate(images: Sequence[MappedImage]) -> Views:
    """Batch the views of N images.

    An image without a mask gets zeros and ``has_mask`` False; a batch without any mask gets ``masks`` None. What
    augmenters recorded in ``View.extra`` comes out as ``Views.extra[name]`` (N, V, ...) where every view has it, or as
    ``Views.extra["name.v"]`` (N, ...) where only some views do. ``Views.extra["passed_over"]`` (N,) counts the corrupt
    images that were passed over.
    """
    rows = [image.views for image in images]
    num_views = len(rows[0])
    has_mask = torch.tensor([[view.mask is not None for view in row] for row in rows], dtype=torch.bool)
    extra = collate_extra(rows)
    extra[PASSED_OVER] = torch.tensor([image.passed_over for image in images], dtype=torch.int64)
    for v in range(num_views):
        _check_sizes(rows, v)
    return Views(
        images=[_stack([row[v].image for row in rows]) for v in range(num_views)],
        masks=[_stack([_mask(row[v]) for row in rows]) for v in range(num_views)] if has_mask.any() else None,
        has_mask=has_mask,
        geometry=GeometryBatch.stack([[view.geometry for view in row] for row in rows]),
        index=torch.tensor([image.sample_index for image in images], dtype=torch.int64),
        label=torch.tensor([image.label for image in images], dtype=torch.int64),
        extra=extra,
        paths=[image.path for image in images],
    )


def _check_sizes(rows: list[list[View]], number: int) -> None:
    sizes = {(row[number].image.shape[1], row[number].image.shape[2]) for row in rows}
    if len(sizes) > 1:
        (h, w), (other_h, other_w) = sorted(sizes)[:2]
        raise ConfigError(
            f"AUGMENT.VIEWS[{number}] gives views of different sizes in one batch ({w} x {h} and {other_w} x {other_h} "
            "px): a crop is missing; put RandomResizedCrop or SaliencyConstrainedCrop first"
        )


def _stack(tensors: list[Tensor]) -> Tensor:
    """(C, h, w) each -> (N, C, h, w), in channels-last memory where the views are (transposing costs ten copies)."""
    # In a worker default_collate writes straight into shared memory, which saves one copy of the batch.
    if all(tensor.stride(0) == 1 and tensor.shape[0] > 1 for tensor in tensors):
        return default_collate([tensor.permute(1, 2, 0) for tensor in tensors]).permute(0, 3, 1, 2)
    return default_collate(tensors)


def _mask(view: View) -> Tensor:
    if view.mask is not None:
        return view.mask
    return torch.zeros((1, *view.image.shape[1:]), dtype=torch.uint8)


def collate_extra(rows: list[list[View]]) -> dict[str, Tensor]:
    """Stack ``View.extra`` of ``rows[n][v]`` by name (see :func:`collate`)."""
    extra: dict[str, Tensor] = {}
    present = [set(view.extra) for view in rows[0]]
    for row in rows:
        if [set(view.extra) for view in row] != present:
            raise ValueError(f"views differ in what they recorded: {[sorted(v.extra) for v in row]} and {present}")
    for name in sorted(set().union(*present)):
        views = [v for v, names in enumerate(present) if name in names]
        columns = [torch.stack([_tensor(row[v].extra[name]) for row in rows]) for v in views]
        if len(views) == len(present):
            extra[name] = torch.stack(columns, dim=1)
        else:
            extra.update({f"{name}.{v}": column for v, column in zip(views, columns, strict=True)})
    return extra


def _tensor(value: Any) -> Tensor:
    tensor = torch.as_tensor(value)
    return tensor.float() if tensor.dtype == torch.float64 else tensor
