"""The files a trunk is written to for other programs, and what each of them needs.

Every format holds the same tensors, bit by bit; what differs is their names, the container, and whether the file has
room for the meta. Where it has not, the meta goes to a ``.json`` of the same name beside it.
"""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_loc.checkpoint.files import BACKBONE_FORMAT, BACKBONE_VERSION, write_torch_file
from ssl_loc.checkpoint.trunk_names import trunk_to_detectron2
from ssl_loc.utils.errors import WeightsError, check_choice
from ssl_loc.utils.file_io import atomic_write, write_json

if TYPE_CHECKING:
    from ssl_loc.checkpoint.backbone_file import BackboneFile

# Format -> the suffixes its readers know it by; ssl_loc's own file may have any other name too.
FORMATS: dict[str, tuple[str, ...]] = {
    "ssl_loc": (".pth", ".pt"),
    "torchvision": (".pth", ".pt"),
    "detectron2": (".pth", ".pkl"),
    "timm": (".safetensors", ".pth"),
    "safetensors": (".safetensors",),
}
# Suffix -> the format it stands for if none is named.
_BY_SUFFIX = {".safetensors": "safetensors", ".pkl": "detectron2"}
# Key of the meta (JSON text) in the header of a safetensors file, which holds text only.
SAFETENSORS_META = "ssl_loc.meta"
# detectron2 takes a file without an author for a Caffe2 one.
_AUTHOR = "ssl_loc"


def choose_format(out: str | os.PathLike, name: str = "") -> str:
    """The format for ``out``: as named, else by its suffix, else ours.

    Raises:
        ConfigError: unknown name.
        WeightsError: a suffix by which the readers of that format would not know it.
    """
    suffix = Path(out).suffix.lower()
    chosen = check_choice("--format", name, list(FORMATS)) if name else _BY_SUFFIX.get(suffix, "ssl_loc")
    foreign = [s for s in _BY_SUFFIX if s not in FORMATS[chosen]]
    if suffix in foreign or (chosen != "ssl_loc" and suffix not in FORMATS[chosen]):
        raise WeightsError(
            f"--out {out} ends in '{suffix}', but --format {chosen} is read from {' or '.join(FORMATS[chosen])}; "
            f"choose such a name, e.g. {Path(out).with_suffix(FORMATS[chosen][0])}"
        )
    return chosen


def meta_beside(path: str | os.PathLike) -> Path:
    """Where the meta of a file that cannot hold it lies: "cast.pth" -> "cast.pth.json"."""
    return Path(f"{os.fspath(path)}.json")


def has_room_for_meta(out: str | os.PathLike, name: str) -> bool:
    """False for a plain state dict, whose readers expect nothing but tensors in it."""
    return name in ("ssl_loc", "detectron2") or Path(out).suffix.lower() == ".safetensors"


def write_backbone(file: BackboneFile, out: str | os.PathLike, name: str = "") -> str:
    """Write a trunk as ``name`` (or as ``out``'s suffix says), atomically; returns the format."""
    chosen, path = choose_format(out, name), Path(out)
    if chosen == "ssl_loc":
        content = {"format": BACKBONE_FORMAT, "version": BACKBONE_VERSION, "model": file.model, "meta": file.meta}
        write_torch_file(path, content)
    elif chosen == "detectron2":
        _write_detectron2(file, path)
    elif path.suffix.lower() == ".safetensors":
        _write_safetensors(file, path)
    else:
        write_torch_file(path, dict(file.model))
        write_json(meta_beside(path), file.meta)
    return chosen


def _write_detectron2(file: BackboneFile, path: Path) -> None:
    # One file for C4 and FPN: detectron2 matches these names as suffixes of its own, but only if the file asks for it.
    # Without "matching_heuristics" it loads nothing, with a warning.
    model: dict[str, Any] = {trunk_to_detectron2(key): value for key, value in file.model.items()}
    content = {"model": model, "__author__": _AUTHOR, "matching_heuristics": True, "meta": file.meta}
    if path.suffix.lower() != ".pkl":
        write_torch_file(path, content)
        return
    content["model"] = {key: value.numpy() for key, value in model.items()}
    with atomic_write(path) as stream:
        pickle.dump(content, stream, protocol=4)


def _write_safetensors(file: BackboneFile, path: Path) -> None:
    save = safetensors_torch().save
    # "format" is what readers of such files look for ("pt": torch).
    data = save(dict(file.model), metadata={"format": "pt", SAFETENSORS_META: json.dumps(file.meta)})
    with atomic_write(path) as stream:
        stream.write(data)


def safetensors_torch() -> Any:
    """The module ``safetensors.torch``.

    Raises:
        WeightsError: it is not installed; says how to.
    """
    try:
        import safetensors.torch
    except ImportError:
        raise WeightsError(
            "safetensors files need the package safetensors, which is not installed: pip install safetensors (or "
            "choose a .pth format)"
        ) from None
    return safetensors.torch
