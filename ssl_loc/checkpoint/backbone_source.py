"""Trunks from any file that can be verified: ours, its exports to other programs, and foreign ones with a statement.

A state dict alone does not say how pixels were prepared or where the network strides; with wrong settings it loads
without a warning and computes something else. So a file either carries this, or comes with a ``.json`` that states it,
or is refused: nothing is guessed.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ssl_loc.checkpoint.backbone_export import BackboneFile, check_digest, load_backbone
from ssl_loc.checkpoint.backbone_formats import SAFETENSORS_META, meta_beside, safetensors_torch
from ssl_loc.checkpoint.files import describe, format_of, read_torch_file, tensor_digest
from ssl_loc.checkpoint.inferred_backbone import infer_backbone
from ssl_loc.checkpoint.trunk_names import CLASSIFIER, trunk_from_detectron2, trunk_to_detectron2
from ssl_loc.utils.errors import WeightsError
from ssl_loc.utils.file_io import read_json

logger = logging.getLogger(__name__)

# What no tensor tells. "pixel_mean" and "pixel_std" are in the order of "channel_order", on the 0..255 scale.
STATED = ("pixel_mean", "pixel_std", "channel_order", "stride_in_1x1")
EXAMPLE = (
    '{"pixel_mean": [123.675, 116.28, 103.53], "pixel_std": [58.395, 57.12, 57.375], "channel_order": "RGB", '
    '"stride_in_1x1": false}'
)


def read_backbone(path: str | os.PathLike) -> BackboneFile:
    """A trunk and its meta from any file that can be verified.

    That is: our exported ``.pth``; the torchvision, timm, safetensors and detectron2 (``.pth``) files that
    tools/export_backbone.py writes; a foreign ``.pth`` or ``.safetensors`` in torchvision's names with a FILE.json.

    Raises:
        WeightsError: another kind of file, one without a statement, or one whose tensors have another digest than
            stated; says what to do.
    """
    if Path(path).suffix.lower() == ".pkl":
        raise WeightsError(
            f"{path} is a pickle, which can run any code when it is opened, so it is not; give the trunk as .pth or "
            ".safetensors (tools/export_backbone.py writes both)"
        )
    if Path(path).suffix.lower() == ".safetensors":
        tensors, meta = _safetensors(Path(path))
    else:
        content = read_torch_file(path)
        if format_of(content):
            return load_backbone(path)
        tensors, meta = _plain(content, path)
    return _verified(tensors, meta or _beside(path, tensors), path)


def read_foreign(path: str | os.PathLike, prefix: str, stated: str | os.PathLike) -> BackboneFile:
    """The tensors under ``prefix`` of somebody else's checkpoint, with the meta that the JSON file ``stated`` holds.

    Raises:
        WeightsError: nothing under the prefix (lists those there are), a tensor that is no trunk's, or a JSON that
            does not state what it must.
    """
    if Path(path).suffix.lower() == ".safetensors":
        content: Any = safetensors_file(Path(path))[0]
    else:
        content = read_torch_file(path)
    state = _state_dict(content)
    found = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    # A head of several layers called fc (MoCo v2: fc.0, fc.2) is no part of the trunk.
    head = sorted(key for key in found if key.startswith("fc."))
    tensors = {key: value for key, value in found.items() if key not in head}
    if not tensors:
        stem = "conv1.weight"
        starts = sorted(key.removesuffix(stem) for key in state if key.endswith(stem) and "layer" not in key)
        raise WeightsError(
            f"{path} is {describe(content)}; it has no trunk tensor under --prefix '{prefix}'; prefixes of a first "
            f"convolution there: {', '.join(map(repr, starts)) or 'none'}"
        )
    if head:
        logger.info("left out %s of %s, its head", ", ".join(head), path)
    return _verified(tensors, _statement(Path(stated)), path)


def check_stated(meta: Mapping[str, Any], source: str | os.PathLike) -> None:
    """What a meta must say about pixels and strides, in usable form.

    Raises:
        WeightsError: naming the entry, its value and what is expected.
    """
    missing = [key for key in STATED if key not in meta]
    if missing:
        raise WeightsError(f"{source} does not state {', '.join(missing)}; expected for example {EXAMPLE}")
    for key in ("pixel_mean", "pixel_std"):
        value = meta[key]
        numbers = isinstance(value, list) and len(value) == 3 and all(isinstance(v, (int, float)) for v in value)
        # A std of 1 is Caffe2's, a mean of 0 somebody's choice; a std below 1 or a mean of at most 1 is of 0..1 pixels.
        small = numbers and (min(value) < 1 if key == "pixel_std" else 0 < max(value) <= 1)
        if not numbers or small:
            raise WeightsError(f"{key} in {source} is {value!r}; expected three numbers on the 0..255 scale")
    if meta["channel_order"] not in ("RGB", "BGR"):
        raise WeightsError(f"channel_order in {source} is {meta['channel_order']!r}; expected 'RGB' or 'BGR'")
    if not isinstance(meta["stride_in_1x1"], bool):
        raise WeightsError(f"stride_in_1x1 in {source} is {meta['stride_in_1x1']!r}; expected true or false")


def safetensors_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, header text) of a safetensors file."""
    module = safetensors_torch()
    if not path.is_file():
        raise WeightsError(f"no file {path}; expected a weight file (.safetensors)")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as stream:
            header = dict(stream.metadata() or {})
        return module.load_file(path), header
    except SafetensorError as error:
        raise WeightsError(f"{path} cannot be read as a safetensors file ({error}); it is damaged") from None


def _safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, header = safetensors_file(path)
    text = header.get(SAFETENSORS_META)
    try:
        return tensors, json.loads(text) if text else {}
    except json.JSONDecodeError:
        raise WeightsError(
            f"the meta in the header of {path} is no JSON; the file was changed, export it again"
        ) from None


def _plain(content: Any, path: str | os.PathLike) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors in torchvision's names, meta or {}) of a file without a format of ours."""
    if (
        isinstance(content, Mapping)
        and content.get("matching_heuristics")
        and isinstance(content.get("model"), Mapping)
    ):
        meta = content.get("meta")
        tensors = {trunk_from_detectron2(str(key)): value for key, value in content["model"].items()}
        return tensors, dict(meta) if isinstance(meta, Mapping) else {}
    bare = isinstance(content, Mapping) and bool(content) and all(isinstance(v, Tensor) for v in content.values())
    if not bare or not any(str(key) == "conv1.weight" for key in content):
        raise WeightsError(f"{path} is {describe(content)}; {_how(path)}")
    return {str(key): value for key, value in content.items()}, {}


def _beside(path: str | os.PathLike, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    beside = meta_beside(path)
    if not beside.is_file():
        raise WeightsError(
            f"{path} is {describe(tensors)}; nothing in it says how pixels were prepared or where the network strides, "
            f"and there is no {beside.name} beside it; write there what holds for this network, for example {EXAMPLE}"
        )
    return _statement(beside)


def _statement(path: Path) -> dict[str, Any]:
    meta = read_json(path)
    if not isinstance(meta, dict):
        raise WeightsError(f"{path} holds a {type(meta).__name__}; expected for example {EXAMPLE}")
    check_stated(meta, path)
    return meta


def _verified(tensors: dict[str, Tensor], meta: dict[str, Any], path: str | os.PathLike) -> BackboneFile:
    """Trunk tensors only, the digest as stated, the description as the shapes say."""
    trunk = {key: value for key, value in tensors.items() if key not in CLASSIFIER}
    for key in trunk:
        try:
            trunk_to_detectron2(key)
        except WeightsError as error:
            raise WeightsError(f"{path}: {error}") from None
    check_stated(meta, path)
    if "digest" in meta:
        check_digest(trunk, meta["digest"], path)
    else:
        logger.info("%s states no digest; its tensors are taken as they are", path)
    found = infer_backbone(trunk)
    stated = meta.get("backbone", found)
    if _shape(stated) != _shape(found):
        raise WeightsError(f"{path} holds the trunk {found}, but its meta says {stated}; correct or drop 'backbone'")
    return BackboneFile(trunk, {**meta, "backbone": stated, "digest": tensor_digest(trunk)})


def _shape(description: Any) -> dict[str, str]:
    """Names and shapes of the tensors of a described trunk; a description that cannot be built equals no trunk."""
    import torch

    from ssl_loc.modeling.backbone import build_backbone_from_description

    if not isinstance(description, Mapping):
        return {}
    with torch.device("meta"):
        state = build_backbone_from_description(dict(description)).state_dict()
    return {key: str(tuple(value.shape)) for key, value in state.items()}


def _state_dict(content: Any) -> dict[str, Tensor]:
    """The tensors of a file, found under the names that training scripts use."""
    for key in ("model", "state_dict", "student", "teacher"):
        inner = content.get(key) if isinstance(content, Mapping) else None
        if isinstance(inner, Mapping) and any(isinstance(v, Tensor) for v in inner.values()):
            return _state_dict(inner)
    if not isinstance(content, Mapping):
        return {}
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}


def _how(path: str | os.PathLike) -> str:
    return (
        "expected a backbone exported by tools/export_backbone.py, or a state dict in torchvision's names with a "
        f"{Path(path).name}.json beside it; convert another checkpoint by tools/export_backbone.py {path} --prefix "
        "WHERE_THE_TRUNK_IS --meta meta.json --out backbone.pth (see its --help)"
    )
