"""Trunks from any file: ours, its exports to other programs, and other people's checkpoints.

A state dict alone does not say how pixels were prepared or where the network strides; with wrong settings it loads
without a warning and computes something else. Our files carry this. For a foreign one it is stated in a ``.json``
beside it; where there is none, what the family's published code does is assumed, and the log says so.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ssl_loc.checkpoint.backbone_file import BackboneFile, check_digest, trunk_in
from ssl_loc.checkpoint.backbone_formats import SAFETENSORS_META, meta_beside, safetensors_torch
from ssl_loc.checkpoint.checkpointer import run_checkpoint
from ssl_loc.checkpoint.files import describe, format_of, read_torch_file, tensor_digest
from ssl_loc.checkpoint.foreign_trunk import ForeignTrunk, take_trunk
from ssl_loc.checkpoint.inferred_backbone import infer_backbone
from ssl_loc.checkpoint.trunk_names import CLASSIFIER, trunk_from_detectron2
from ssl_loc.checkpoint.trunk_shape import listed, shape_problems, shapes_of, spoken
from ssl_loc.utils.errors import UserError, WeightsError, did_you_mean
from ssl_loc.utils.file_io import read_json

logger = logging.getLogger(__name__)

# What no tensor tells. "pixel_mean" and "pixel_std" are in the order of "channel_order", on the 0..255 scale.
STATED = ("pixel_mean", "pixel_std", "channel_order", "stride_in_1x1")
# Where the trunk is, for a file that holds several.
PREFIX = "prefix"
# What else a statement may say: what the meta of an exported trunk does.
DESCRIBING = (
    *("backbone", "digest", "method", "losses", "dataset", "dataset_size", "mask_source", "masks", "uses_labels"),
    *("init_from", "iteration", "versions", "config", "source"),
)
EXAMPLE = (
    '{"pixel_mean": [123.675, 116.28, 103.53], "pixel_std": [58.395, 57.12, 57.375], "channel_order": "RGB", '
    '"stride_in_1x1": false}'
)


def read_backbone(
    path: str | os.PathLike, prefix: str | None = None, stated: str | os.PathLike | None = None
) -> BackboneFile:
    """A trunk and its meta from any file.

    That is: a run folder, a run's checkpoint, our exported ``.pth``; the torchvision, timm, safetensors and detectron2
    (``.pth``) files that tools/export_backbone.py writes; a checkpoint of another code base (``foreign_families``).

    Args:
        prefix: of a foreign file: where the trunk is; None = as the json says, else recognised.
        stated: of a foreign file: the json that says what no tensor does; None = ``PATH.json`` where there is one.

    Raises:
        WeightsError: another kind of file, a trunk that is not whole, a statement that is not usable, or tensors with
            another digest than stated; says what to do.
    """
    if Path(path).suffix.lower() == ".pkl":
        raise WeightsError(
            f"{path} is a pickle, which can run any code when it is opened, so it is not; give the trunk as .pth or "
            ".safetensors (tools/export_backbone.py writes both)"
        )
    path = run_checkpoint(path)
    if path.suffix.lower() == ".safetensors":
        content, meta = _safetensors(path)
        return _ours(content, meta, path) if meta else _foreign(content, path, prefix, stated)
    return backbone_in(read_torch_file(path), path, prefix, stated)


def backbone_in(
    content: Any, path: str | os.PathLike, prefix: str | None = None, stated: str | os.PathLike | None = None
) -> BackboneFile:
    """:func:`read_backbone` of a ``.pth`` that has been read."""
    if format_of(content):
        if prefix is not None or stated is not None:
            raise WeightsError(
                f"{path} is {describe(content)}; it says itself where its trunk is and what pixels it takes; a prefix "
                "and a json are for other code's checkpoints"
            )
        return trunk_in(content, path)
    if isinstance(content, Mapping) and content.get("matching_heuristics") and isinstance(content.get("meta"), Mapping):
        tensors = {trunk_from_detectron2(str(key)): value for key, value in content["model"].items()}
        return _ours(tensors, dict(content["meta"]), path)
    beside = meta_beside(path)
    if prefix is None and stated is None and beside.is_file() and "digest" in (meta := _statement(beside)):
        bare = {str(key): value for key, value in content.items()} if isinstance(content, Mapping) else {}
        return _ours(bare, meta, path)
    return _foreign(content, path, prefix, stated)


def in_rgb(file: BackboneFile, path: str | os.PathLike) -> BackboneFile:
    """The same network for RGB pixels: a first convolution trained on BGR has its input channels turned round.

    Raises:
        WeightsError: a network that strides in its 1x1 convolutions, which only detectron2 builds.
    """
    if file.meta.get("stride_in_1x1"):
        raise WeightsError(
            f"{path} strides in its 1x1 convolutions (original MSRA and Caffe2 weights); the trunks built here stride "
            "in the 3x3 ones and would compute something else; only tools/finetune_det.py with --engine detectron2 "
            "and MODEL.RESNETS.STRIDE_IN_1X1 True takes it"
        )
    if file.meta.get("channel_order", "RGB") == "RGB":
        return file
    model = {**file.model, "conv1.weight": file.model["conv1.weight"].flip(1).contiguous()}
    turned = {key: list(reversed(file.meta[key])) for key in ("pixel_mean", "pixel_std")}
    meta = {**file.meta, **turned, "channel_order": "RGB", "digest": tensor_digest(model)}
    return replace(file, model=model, meta=meta)


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


def _ours(tensors: Mapping[str, Any], meta: dict[str, Any], path: str | os.PathLike) -> BackboneFile:
    """A trunk that we exported to another program's file: digest and description as the meta says."""
    trunk = {key: value for key, value in tensors.items() if key not in CLASSIFIER and isinstance(value, Tensor)}
    check_stated(meta, path)
    check_digest(trunk, meta.get("digest"), path)
    _check_description(meta.get("backbone"), trunk, path)
    return BackboneFile(trunk, {**meta, "digest": tensor_digest(trunk)})


def _foreign(
    content: Any, path: str | os.PathLike, prefix: str | None, stated: str | os.PathLike | None
) -> BackboneFile:
    """Somebody else's checkpoint: the trunk of its family, with what is stated or assumed about it."""
    beside = Path(stated) if stated is not None else meta_beside(path)
    given = _statement(beside) if stated is not None or beside.is_file() else {}
    prefix = given.pop(PREFIX, None) if prefix is None else prefix
    trunk = take_trunk(content, path, prefix, custom="backbone" in given)
    pixels_given = bool(given.keys() & set(STATED))
    if trunk.ask and not pixels_given:
        raise WeightsError(
            f"{path} {trunk.ask}; nothing in it says which; write {meta_beside(path).name} beside it, for example "
            f"{EXAMPLE}"
        )
    trunk.report(path)
    meta = given if pixels_given else {**_assumed(trunk, path), **given}
    check_stated(meta, beside if pixels_given else path)
    if "digest" in meta:
        check_digest(trunk.model, meta["digest"], path)
    if "backbone" in meta:
        _check_description(meta["backbone"], trunk.model, path)
    else:
        meta["backbone"] = infer_backbone(trunk.model)
    return BackboneFile(trunk.model, {**meta, "source": trunk.source(), "digest": tensor_digest(trunk.model)})


def _assumed(trunk: ForeignTrunk, path: str | os.PathLike) -> dict[str, Any]:
    """What the file's own normalisation is, or what the published code of this family does, said aloud."""
    pixels = trunk.pixels
    words = (
        "%s prepares its pixels by %s: mean %s, std %s (0..255); assumed: RGB, stride in the 3x3 convolutions; if that "
        "is wrong, state it in %s"
        if pixels.in_file
        else "%s does not say how pixels were prepared; assumed, as in %s: RGB, mean %s, std %s (0..255), stride in "
        "the 3x3 convolutions; if that is wrong, state it in %s"
    )
    logger.warning(words, path, pixels.source, pixels.mean, pixels.std, meta_beside(path))
    return {"pixel_mean": pixels.mean, "pixel_std": pixels.std, "channel_order": "RGB", "stride_in_1x1": False}


def _statement(path: Path) -> dict[str, Any]:
    meta = read_json(path)
    if not isinstance(meta, dict):
        raise WeightsError(f"{path} holds a {type(meta).__name__}; expected for example {EXAMPLE}")
    known = (*STATED, PREFIX, *DESCRIBING)
    # With a digest it is what an export left beside its tensors, also that of another version.
    if "digest" not in meta and (unknown := [key for key in meta if key not in known]):
        near = did_you_mean(unknown[0], known)
        raise WeightsError(f"{path} has {listed(unknown)}, which nothing reads; expected {', '.join(known)}{near}")
    if meta.keys() & set(STATED):
        check_stated(meta, path)
    elif not meta.keys() & {PREFIX, "backbone", "digest"}:
        raise WeightsError(f"{path} states none of {', '.join((*STATED, PREFIX))}; expected for example {EXAMPLE}")
    if not isinstance(meta.get(PREFIX, ""), str):
        raise WeightsError(f"prefix in {path} is {meta[PREFIX]!r}; expected text such as 'module.encoder_q.'")
    return meta


def _check_description(stated: Any, trunk: Mapping[str, Tensor], path: str | os.PathLike) -> None:
    """Refuse a description of another network than these tensors are."""
    try:
        wanted = shapes_of(stated) if isinstance(stated, Mapping) else {}
    except UserError as error:
        raise WeightsError(f"the backbone that the meta of {path} describes cannot be built: {error}") from None
    problems = shape_problems({key: tuple(value.shape) for key, value in trunk.items()}, wanted)
    if not problems:
        return
    try:
        found = spoken(infer_backbone(trunk))
    except WeightsError:
        found = "something else"
    raise WeightsError(
        f"{path} holds {found}, but its meta says {stated}: {'; '.join(problems)}; correct or drop 'backbone'"
    )
