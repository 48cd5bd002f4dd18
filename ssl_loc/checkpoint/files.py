"""Reading and recognising weight files without running anything that is inside them."""

from __future__ import annotations

import os
import re
import warnings
from argparse import Namespace
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
DETECTOR_FORMAT = "ssl_loc.detector"
# Raised when a reader of the old version would misread the new file.
CHECKPOINT_VERSION = 1
BACKBONE_VERSION = 1

# What the files of torch.save start with: a zip archive, or a pickle of protocol 2 (before torch 1.6).
_TORCH = (b"PK", b"\x80\x02")
_PLAIN_PICKLE = (b"\x80\x03", b"\x80\x04", b"\x80\x05")
_REFUSED_CLASS = re.compile(r"GLOBAL (\S+) was not an allowed global")
# Characters of torch's own message in ours.
_REASON = 100

# Foreign files by a piece of their tensor names -> who writes such names, and where the trunk is.
_FOREIGN = (
    ("module.encoder_q.", "a checkpoint of the official MoCo or CAST code (trunk under module.encoder_q.)"),
    ("online_encoder.", "a BYOL checkpoint (trunk under online_encoder.)"),
    ("teacher.", "a self-distillation checkpoint with a teacher"),
    ("backbone.bottom_up.", "a detectron2 detector"),
    ("proposal_generator.", "a detectron2 detector"),
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
        with warnings.catch_warnings():
            # Said of junk too; what is wrong with a file that cannot be read, the error says.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            # Many scripts keep their command line in the checkpoint. A Namespace is a bag of attributes: making one
            # runs no code, and what is in it has to be allowed by itself.
            with torch.serialization.safe_globals([Namespace]):
                return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from None
    # torch runs the bytes of the file as a program for its unpickler without checking them first: damaged and foreign
    # files raised UnpicklingError, RuntimeError, EOFError, ValueError, UnicodeDecodeError, KeyError, IndexError,
    # TypeError, AttributeError, AssertionError and struct.error in trials, and nothing limits it to these.
    except Exception as error:  # noqa: BLE001
        raise WeightsError(_why_unreadable(path, error)) from None


def _why_unreadable(path: Path, error: Exception) -> str:
    """One sentence about a file that ``torch.load`` refused."""
    size = path.stat().st_size
    with open(path, "rb") as stream:
        start = stream.read(12)
    if not size:
        return f"{path} is empty (0 bytes); expected a .pth made by this project"
    refused = _REFUSED_CLASS.search(str(error))
    if refused or start.startswith(_PLAIN_PICKLE):
        what = refused[1] if refused else "a plain pickle"
        return (
            f"{path} holds Python objects ({what}), not only tensors and plain values, and is not opened for safety; "
            "re-save its state_dict() with torch.save in the code that wrote it, or, if you trust it, in its folder: "
            f"python -c \"import torch; c = torch.load('{path.name}', map_location='cpu', weights_only=False); "
            f"torch.save(c.get('state_dict', c.get('model', c)), '{path.stem}.tensors.pth')\""
        )
    if not start.startswith(_TORCH):
        return (
            f"{path} is not a torch file ({size} bytes, starting with {start!r}); expected a .pth made by this project"
        )
    lines = str(error).rpartition("WeightsUnpickler error:")[2].strip().splitlines()
    # Junk ends up in the message; it is cut, and shown without control characters.
    reason = f"{type(error).__name__} {ascii(lines[0][:_REASON]) if lines else ''}".strip()
    return f"{path} cannot be read as a torch file ({reason}); it is damaged or was cut short, get or write it again"


def read_format(path: str | os.PathLike, *formats: str, hints: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Read a file of one of ``formats``; ``hints`` says what to do with a file of another format of ours.

    Raises:
        WeightsError: another kind of file (the message says which), a newer version, or one with missing parts.
    """
    return check_format(read_torch_file(path), path, *formats, hints=hints)


def check_format(
    content: Any, path: str | os.PathLike, *formats: str, hints: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """:func:`read_format` of a file that has been read."""
    kind = format_of(content)
    if kind not in formats:
        hint = "; " + hints[kind] if hints and kind in hints else ""
        expected = " or ".join(_SPOKEN[f] for f in formats)
        raise WeightsError(f"{path} is {describe(content)}; expected {expected}{hint}")
    version = content.get("version")
    if isinstance(version, int) and version > _VERSIONS[kind]:
        raise WeightsError(
            f"{path} has {kind} version {version}; this ssl_loc reads up to {_VERSIONS[kind]}; update it"
        )
    wrong = [key for key, form in _PARTS[kind].items() if not isinstance(content.get(key), form)]
    if wrong:
        raise WeightsError(f"{path} calls itself {_SPOKEN[kind]} but has no usable {', '.join(wrong)}; it is damaged")
    return content


def format_of(content: Any) -> str:
    """The "format" that a file of ours names, "" for any other."""
    kind = content.get("format") if isinstance(content, Mapping) else None
    return kind if isinstance(kind, str) else ""


def detector_engine(content: Any) -> str:
    """Name of the engine whose detector this is (a file that tools/finetune_det.py wrote), "" for any other file."""
    if not isinstance(content, Mapping):
        return ""
    # detectron2's own trainer reads that engine's files, so they keep its form, with a part "about" in it.
    about = content if format_of(content) == DETECTOR_FORMAT else content.get("about")
    return str(about.get("engine", "")) if isinstance(about, Mapping) else ""


_VERSIONS = {CHECKPOINT_FORMAT: CHECKPOINT_VERSION, BACKBONE_FORMAT: BACKBONE_VERSION}
_SPOKEN = {
    CHECKPOINT_FORMAT: "a checkpoint of an ssl_loc run (OUTPUT_DIR/checkpoints/iter_*.pth)",
    BACKBONE_FORMAT: "a backbone exported by tools/export_backbone.py",
}
# The parts every reader relies on.
_PARTS: dict[str, dict[str, type]] = {
    CHECKPOINT_FORMAT: {"version": int, "iteration": int, "model": dict, "config": dict, "meta": dict},
    BACKBONE_FORMAT: {"version": int, "model": dict, "meta": dict},
}


def describe(content: Any) -> str:
    """What a loaded file is, in words, for errors."""
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}, not a dictionary of weights"
    if format_of(content) in _SPOKEN:
        return _SPOKEN[format_of(content)]
    if engine := detector_engine(content):
        return f"a detector that was fine-tuned on the {engine} engine (tools/finetune_det.py)"
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
