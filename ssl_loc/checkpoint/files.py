"""Reading and recognising weight files without running anything that is inside them."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssl_loc.utils.errors import WeightsError
from ssl_loc.utils.file_io import atomic_write

CHECKPOINT_FORMAT = "ssl_loc.checkpoint"
BACKBONE_FORMAT = "ssl_loc.backbone"
# Raised when a reader of the old version would misread the new file.
CHECKPOINT_VERSION = 1
BACKBONE_VERSION = 1

# Foreign files by a piece of their tensor names -> who writes such names, and where the trunk is.
_FOREIGN = (
    ("module.encoder_q.", "a checkpoint of the official MoCo or CAST code (trunk under module.encoder_q.)"),
    ("online_encoder.", "a BYOL checkpoint (trunk under online_encoder.)"),
    ("teacher.", "a self-distillation checkpoint with a teacher"),
    ("backbone.bottom_up.", "a detectron2 detector"),
    ("roi_heads.", "a detector"),
    ("backbone.", "a checkpoint of a framework that prefixes the trunk with backbone."),
    ("layer4.", "a plain ResNet state dict in torchvision's names, without ssl_loc's meta"),
    ("conv1.", "a plain convolutional state dict without ssl_loc's meta"),
)


def read_torch_file(path: str | os.PathLike) -> Any:
    """``torch.load`` on the CPU with ``weights_only=True``; every failure is a :class:`WeightsError`."""
    path = Path(path)
    if path.is_dir():
        raise WeightsError(f"{path} is a folder; expected a weight file (.pth)")
    if not path.is_file():
        raise WeightsError(f"no file {path}; expected a weight file (.pth)")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if _is_pickle(path):
            reason = str(error).strip().splitlines()[0]
            raise WeightsError(
                f"{path} holds Python objects, not only tensors and plain values, and is not opened for safety "
                f"({reason}); re-save its state_dict() with torch.save in the code that wrote it"
            ) from None
        raise WeightsError(
            f"{path} is not a torch file ({_start_of(path)}); expected a .pth made by this project"
        ) from None
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(f"{path} cannot be read as a torch file: {reason}; it may have been cut short") from None


def read_format(path: str | os.PathLike, *formats: str, hints: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Read a file of one of ``formats``; ``hints`` says what to do with a file of another format of ours.

    Raises:
        WeightsError: another kind of file (the message says which), or a newer version.
    """
    content = read_torch_file(path)
    kind = content.get("format") if isinstance(content, dict) else None
    if kind not in formats:
        hint = "; " + hints[str(kind)] if hints and kind in hints else ""
        expected = " or ".join(_SPOKEN[f] for f in formats)
        raise WeightsError(f"{path} is {describe(content)}; expected {expected}{hint}")
    if content["version"] > _VERSIONS[kind]:
        raise WeightsError(
            f"{path} has {kind} version {content['version']}; this ssl_loc reads up to {_VERSIONS[kind]}; update it"
        )
    return content


_VERSIONS = {CHECKPOINT_FORMAT: CHECKPOINT_VERSION, BACKBONE_FORMAT: BACKBONE_VERSION}
_SPOKEN = {
    CHECKPOINT_FORMAT: "a checkpoint of an ssl_loc run (OUTPUT_DIR/checkpoints/iter_*.pth)",
    BACKBONE_FORMAT: "a backbone exported by tools/export_backbone.py",
}


def describe(content: Any) -> str:
    """What a loaded file is, in words, for errors."""
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}, not a dictionary of weights"
    if content.get("format") in _SPOKEN:
        return _SPOKEN[content["format"]]
    for key in ("model", "state_dict", "teacher", "student"):
        inner = content.get(key)
        if isinstance(inner, Mapping) and any(isinstance(v, Tensor) for v in inner.values()):
            return f"a foreign file whose '{key}' is {describe(inner)}"
    names = [str(name) for name, value in content.items() if isinstance(value, Tensor)]
    if not names:
        keys = ", ".join(map(repr, list(content)[:6]))
        return f"a dictionary without tensors (keys {keys or 'none'})"
    for piece, words in _FOREIGN:
        if any(name.startswith(piece) or f".{piece}" in name for name in names):
            return f"{words}; {len(names)} tensors, the first is '{names[0]}'"
    return f"an unknown state dict of {len(names)} tensors, the first is '{names[0]}'"


def write_torch_file(path: str | os.PathLike, content: Any) -> None:
    """``torch.save`` to a temporary file, then rename: a crash never leaves half of one."""
    with atomic_write(path) as stream:
        torch.save(content, stream)


def tensor_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, sorted by name; first 16 hex digits.

    Names the weights themselves: files written on different days with equal tensors have equal digests.
    """
    digest = sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _is_pickle(path: Path) -> bool:
    with open(path, "rb") as stream:
        start = stream.read(2)
    return start in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def _start_of(path: Path) -> str:
    size = path.stat().st_size
    with open(path, "rb") as stream:
        start = stream.read(12)
    return f"{size} bytes, starting with {start!r}"
