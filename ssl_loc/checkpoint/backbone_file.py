"""A trunk in memory with what is known about it, and the files of ours it is read from."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ssl_loc.checkpoint.checkpointer import run_checkpoint
from ssl_loc.checkpoint.files import (
    BACKBONE_FORMAT,
    CHECKPOINT_FORMAT,
    check_format,
    read_format,
    read_torch_file,
    tensor_digest,
)
from ssl_loc.utils.errors import WeightsError


@dataclass
class BackboneFile:
    """A trunk and what is known about it.

    Attributes:
        model: torchvision names -> tensors, on the CPU.
        meta: "backbone" {"name", "kwargs"}, "pixel_mean" and "pixel_std" (RGB, 0..255), "channel_order" "RGB",
            "stride_in_1x1", "method", "dataset", "mask_source", "uses_labels", "iteration", "versions", "config",
            "digest" (of the tensors).
    """

    model: dict[str, Tensor]
    meta: dict[str, Any]


def trunk_of(checkpoint: dict[str, Any], source: str | os.PathLike = "the checkpoint") -> BackboneFile:
    """The query (online) trunk inside a loaded checkpoint of a run."""
    meta = checkpoint["meta"]
    prefix = meta["trunk_prefix"]
    # A clone: the checkpoint may have stored it in channels-last memory or as part of a larger storage.
    model = {
        name[len(prefix) :]: tensor.detach().contiguous().clone()
        for name, tensor in checkpoint["model"].items()
        if name.startswith(prefix)
    }
    if not model:
        raise WeightsError(f"{source} has no tensor under '{prefix}', where its meta says the trunk is; it is damaged")
    kept = {key: value for key, value in meta.items() if key != "trunk_prefix"}
    kept.update(iteration=checkpoint["iteration"], config=checkpoint["config"], digest=tensor_digest(model))
    return BackboneFile(model, kept)


def load_backbone(path: str | os.PathLike) -> BackboneFile:
    """Read an exported backbone and check its digest.

    Raises:
        WeightsError: another kind of file (the message says what it is and what to do), or damaged tensors.
    """
    hint = f"run tools/export_backbone.py {path} --out backbone.pth and give that file"
    return _checked(read_format(path, BACKBONE_FORMAT, hints={CHECKPOINT_FORMAT: hint}), path)


def load_trunk(path: str | os.PathLike) -> BackboneFile:
    """Trunk of an exported backbone, a run's checkpoint or a run folder's last one."""
    return trunk_in(read_torch_file(run_checkpoint(path)), path)


def trunk_in(content: Any, path: str | os.PathLike) -> BackboneFile:
    """:func:`load_trunk` of a file that has been read."""
    checked = check_format(content, path, BACKBONE_FORMAT, CHECKPOINT_FORMAT)
    return trunk_of(checked, path) if checked["format"] == CHECKPOINT_FORMAT else _checked(checked, path)


def _checked(content: dict[str, Any], path: str | os.PathLike) -> BackboneFile:
    if strange := [str(name) for name, value in content["model"].items() if not isinstance(value, Tensor)]:
        raise WeightsError(
            f"{strange[0]} in {path} is no tensor; the file was changed after the export; export it again"
        )
    check_digest(content["model"], content["meta"].get("digest"), path)
    return BackboneFile(content["model"], content["meta"])


def check_digest(tensors: dict[str, Tensor], stated: Any, path: str | os.PathLike) -> None:
    """Refuse tensors that are not the ones the meta was written for."""
    found = tensor_digest(tensors)
    if found != stated:
        raise WeightsError(
            f"the tensors in {path} have digest {found} but its meta says {stated}; the file was "
            "changed after the export; export it again"
        )
