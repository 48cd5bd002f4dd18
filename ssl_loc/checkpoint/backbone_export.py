"""The one door through which trained trunks leave: torchvision names, and inside the file all one needs to use them."""

from __future__ import annotations

import os
from pathlib import Path

from ssl_loc.checkpoint.backbone_file import BackboneFile
from ssl_loc.checkpoint.backbone_formats import choose_format, write_backbone
from ssl_loc.checkpoint.backbone_source import read_backbone
from ssl_loc.checkpoint.files import BACKBONE_FORMAT, describe, format_of, read_torch_file
from ssl_loc.utils.errors import WeightsError


def export_backbone(
    checkpoint: str | os.PathLike,
    out: str | os.PathLike,
    name: str = "",
    prefix: str | None = None,
    stated: str | os.PathLike | None = None,
) -> BackboneFile:
    """Write the trunk of a run (its folder or a checkpoint) or of any other readable file; return what was written.

    ``torchvision.models.resnet50().load_state_dict(torch.load(out)["model"], strict=False)`` reads it.

    Args:
        checkpoint: for the formats of other programs an exported backbone will do as well.
        name: one of ``backbone_formats.FORMATS``; "" goes by the suffix of ``out``.
        prefix, stated: of a foreign checkpoint (:func:`ssl_loc.checkpoint.backbone_source.read_backbone`).
    """
    check_out(checkpoint, out)
    if choose_format(out, name) == "ssl_loc":
        _refuse_copy(checkpoint)
    file = read_backbone(checkpoint, prefix, stated)
    write_backbone(file, out, name)
    return file


def _refuse_copy(checkpoint: str | os.PathLike) -> None:
    path = Path(checkpoint)
    if path.suffix.lower() in (".safetensors", ".pkl") or not path.is_file():
        return
    content = read_torch_file(path)
    if format_of(content) == BACKBONE_FORMAT:
        raise WeightsError(
            f"{path} is {describe(content)}; its copy in our own format would be the same; copy the file, or choose "
            "another --format"
        )


def check_out(given: str | os.PathLike, out: str | os.PathLike) -> None:
    """Refuse an output that is a folder or the input."""
    if Path(out).is_dir():
        raise WeightsError(f"--out {out} is a folder; expected the name of the file to write, e.g. {out}/backbone.pth")
    if Path(given).resolve() == Path(out).resolve():
        raise WeightsError(f"--out {out} is the checkpoint itself; expected another file name")
