"""Weights under evaluation: a run's checkpoint (whole method), or the trunk of any other file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssl_loc.checkpoint import BackboneFile, method_state
from ssl_loc.checkpoint.backbone_source import backbone_in, in_rgb, read_backbone
from ssl_loc.checkpoint.checkpointer import FOLDER, run_checkpoint
from ssl_loc.checkpoint.files import CHECKPOINT_FORMAT, check_format, format_of, read_torch_file, tensor_digest
from ssl_loc.components import load_components, setup_cfg
from ssl_loc.config import CfgNode
from ssl_loc.evaluation.results import result_slug
from ssl_loc.modeling import Backbone, Method, build_backbone_from_description, build_method
from ssl_loc.utils.errors import ConfigError, WeightsError

RANDOM = "random:"
# Kind of a folder of saliency maps that is evaluated in the place of weights (evaluation/map_folders.py).
MAPS = "maps"


@dataclass
class Trunk:
    """A frozen backbone that takes uint8 images.

    Attributes:
        backbone: module in eval mode without gradients.
        mean, std: RGB statistics on the 0..255 scale it was trained with.
    """

    backbone: Backbone
    mean: Tensor
    std: Tensor

    def normalize(self, images: Tensor) -> Tensor:
        """Images (N, 3, h, w), 0..255 RGB -> what the backbone takes, on its device."""
        return (images.to(self.mean.device).float() - self.mean) / self.std

    def features(self, images: Tensor) -> Tensor:
        """Pooled features of uint8 images (N, 3, h, w) -> float32 (N, D), on the CPU."""
        with torch.no_grad():
            return self.backbone.pooled(self.backbone(self.normalize(images))).float().cpu()


@dataclass
class Weights:
    """One file under evaluation.

    Attributes:
        path: the file, or "random:CONFIG" for a fresh initialisation from that config.
        label: short name for tables and pictures.
        kind: "checkpoint" (whole method), "backbone" (trunk alone: an export or another code's
            checkpoint) or "random" (whole method, untrained), or "maps" (no weights at all: a folder of saliency maps).
        digest: names the file's content in every result.
        cfg: config of the run that made it, where known.
        cache: features already computed, by what they are of (see evaluation/features.py).
    """

    path: str
    label: str
    kind: str
    digest: str
    cfg: CfgNode | None
    meta: dict[str, Any] = field(default_factory=dict)
    device: torch.device = torch.device("cpu")
    state: dict[str, Tensor] = field(default_factory=dict)
    cache: dict[Any, Any] = field(default_factory=dict)

    def input_size(self, default: int = 224) -> int:
        """Side of the views the weights were trained on, in px."""
        return default if self.cfg is None else int(self.cfg.AUGMENT.SIZE)

    def require_maps(self) -> None:
        """Raise WeightsError unless this is a folder of saliency maps."""
        if self.kind != MAPS:
            raise WeightsError(f"{self.path} is no folder of maps; this protocol takes --maps DIR instead of --weights")

    def require_trunk(self) -> None:
        """Raise WeightsError unless this is a network."""
        if self.kind == MAPS:
            raise WeightsError(f"{self.path} is a folder of maps; this protocol needs a network (--weights)")

    def require_method(self) -> None:
        """Raise WeightsError unless the file holds the whole method."""
        self.require_trunk()
        if self.cfg is None or self.kind == "backbone":
            raise WeightsError(
                f"{self.path} is {self._kind_in_words()}, of which only the trunk is used: it has no head and no "
                "momentum encoder that this project can build, and this protocol compares their outputs; it needs the "
                "checkpoint of an ssl_loc run (OUTPUT_DIR/checkpoints/iter_*.pth). The trunk alone serves knn, linear "
                "and the other protocols on frozen features"
            )

    def _kind_in_words(self) -> str:
        family = self.meta.get("source", {}).get("family")
        return f"a checkpoint of other code ({family})" if family else "an exported backbone"

    def method(self) -> Method:
        """The whole method (query and target encoders, head) in eval mode; needs a run's checkpoint."""
        self.require_method()
        assert self.cfg is not None  # required above
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.MODEL.COMPILE = False  # a speed setting of training; not worth its minutes here
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(cfg.SEED)
            method = build_method(cfg)
        if self.kind == "checkpoint":
            _load(method, self.state, self.path)
        return method.eval().requires_grad_(False).to(self.device)

    def trunk(self) -> Trunk:
        """The query trunk alone, frozen."""
        if self.kind != "backbone":
            method = self.method()
            assert self.cfg is not None  # method() has checked it
            mean, std = self.cfg.MODEL.PIXEL_MEAN, self.cfg.MODEL.PIXEL_STD
            return Trunk(method.trunk(), self._pixel(mean), self._pixel(std))
        backbone = build_backbone_from_description(self.meta["backbone"])
        _load(backbone, self.state, self.path)
        backbone = backbone.eval().requires_grad_(False).to(self.device)
        return Trunk(backbone, self._pixel(self.meta["pixel_mean"]), self._pixel(self.meta["pixel_std"]))

    def _pixel(self, values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self.device).view(1, 3, 1, 1)


def open_weights(given: str, device: str = "auto") -> Weights:
    """Open ``FILE`` (ours, its exports, or another code base's), ``RUN_FOLDER`` (its last checkpoint) or
    ``random:CONFIG`` (an untrained network, the baseline of every number); ``LABEL=`` in front names it in tables and
    pictures.
    """
    label, path = given.split("=", 1) if "=" in given and not Path(given).exists() else ("", given)
    where = choose_device(device)
    if path.startswith(RANDOM):
        cfg = setup_cfg(path[len(RANDOM) :])
        weights = Weights(path, label or "random", "random", "", cfg, device=where)
        # As of a run's checkpoint: what was drawn names it. Two configs with one seed draw different networks.
        weights.digest = tensor_digest(weights.method().state_dict())
        return weights
    if not Path(path).exists():
        raise WeightsError(
            f"no file {path}; expected a run folder, its checkpoint (OUTPUT_DIR/{FOLDER}/iter_*.pth), a backbone "
            "written by tools/export_backbone.py, a checkpoint of another code base, or random:CONFIG"
        )
    file = run_checkpoint(path)
    # Only torch's own files can be a whole method; others hold a trunk, or are refused by what reads them.
    if file.suffix.lower() in (".safetensors", ".pkl"):
        return _opened_trunk(read_backbone(file), file, label, where)
    content = read_torch_file(file)
    if format_of(content) == CHECKPOINT_FORMAT:
        return _opened_method(check_format(content, file, CHECKPOINT_FORMAT), file, label, where)
    return _opened_trunk(backbone_in(content, file), file, label, where)


def _opened_trunk(backbone: BackboneFile, file: Path, label: str, device: torch.device) -> Weights:
    backbone = in_rgb(backbone, file)
    meta = backbone.meta
    # A trunk from other code has no config of ours.
    cfg = _restore(meta["config"]) if "config" in meta else None
    return Weights(str(file), label or file.stem, "backbone", meta["digest"], cfg, meta, device, backbone.model)


def _opened_method(checkpoint: dict[str, Any], file: Path, label: str, device: torch.device) -> Weights:
    state = method_state(checkpoint)
    # OUTPUT_DIR/checkpoints/iter_X.pth: the run folder's name says more than the file's.
    run = file.resolve().parent.parent.name if file.resolve().parent.name == FOLDER else file.stem
    meta = {**checkpoint["meta"], "iteration": checkpoint["iteration"]}
    cfg = _restore(checkpoint["config"])
    return Weights(str(file), label or run, "checkpoint", tensor_digest(state), cfg, meta, device, state)


def _restore(config: dict[str, Any]) -> CfgNode:
    load_components()
    return CfgNode.restore(config)


def unique_labels(weights: list[Weights]) -> list[Weights]:
    """Number labels that repeat, so that every row, every curve and every file has its own name.

    "MoCo v2" and "MoCo-v2" are one name of a file, and so repeat as well.
    """
    taken: set[str] = set()
    for w in weights:
        label, count = w.label, 1
        while result_slug(label) in taken:
            count += 1
            label = f"{w.label} ({count})"
        taken.add(result_slug(label))
        w.label = label
    return weights


def _load(module: nn.Module, state: dict[str, Tensor], path: str) -> None:
    """Strict: every tensor of the file is used and none is missing."""
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise WeightsError(f"{path} does not fit the network its own config describes: {error}") from None


def choose_device(name: str) -> torch.device:
    """ "auto" -> the GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda"):
        raise ConfigError(f"DEVICE is '{name}'; expected auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("DEVICE is 'cuda' but this machine has no usable GPU; use auto or cpu")
    return torch.device(name)
