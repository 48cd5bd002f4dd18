"""The one door through which trained trunks leave: torchvision names, and inside the file all one needs to use them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ssl_loc.checkpoint.backbone_formats import choose_format, write_backbone
from ssl_loc.checkpoint.checkpointer import load_checkpoint, run_checkpoint
from ssl_loc.checkpoint.files import BACKBONE_FORMAT, CHECKPOINT_FORMAT, read_format, tensor_digest
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


def export_backbone(checkpoint: str | os.PathLike, out: str | os.PathLike, name: str = "") -> BackboneFile:
    """Write the trunk of a run's checkpoint (or of a run folder's last one) to ``out``; return what was written.

    ``torchvision.models.resnet50().load_state_dict(torch.load(out)["model"], strict=False)`` reads it.

    Args:
        checkpoint: for the formats of other programs an exported backbone will do as well.
        name: one of ``backbone_formats.FORMATS``; "" goes by the suffix of ``out``.
    """
    check_out(checkpoint, out)
    # Of an exported backbone, our own format would be a copy.
    copy = choose_format(out, name) == "ssl_loc"
    file = trunk_of(load_checkpoint(checkpoint), checkpoint) if copy else load_trunk(checkpoint)
    write_backbone(file, out, name)
    return file


def check_out(given: str | os.PathLike, out: str | os.PathLike) -> None:
    """Refuse an output that is a folder or the input."""
    if Path(out).is_dir():
        raise WeightsError(f"--out {out} is a folder; expected the name of the file to write, e.g. {out}/backbone.pth")
    if Path(given).resolve() == Path(out).resolve():
        raise WeightsError(f"--out {out} is the checkpoint itself; expected another file name")


def load_backbone(path: str | os.PathLike) -> BackboneFile:
    """Read an exported backbone and check its digest.

    Raises:
        WeightsError: another kind of file (the message says what it is and what to do), or damaged tensors.
    """
    hint = f"run tools/export_backbone.py {path} --out backbone.pth and give that file"
    return _checked(read_format(path, BACKBONE_FORMAT, hints={CHECKPOINT_FORMAT: hint}), path)


def load_trunk(path: str | os.PathLike) -> BackboneFile:
    """Trunk of an exported backbone, a run's checkpoint or a run folder's last one (``MODEL.INIT_FROM``)."""
    content = read_format(run_checkpoint(path), BACKBONE_FORMAT, CHECKPOINT_FORMAT)
    return trunk_of(content, path) if content["format"] == CHECKPOINT_FORMAT else _checked(content, path)


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
