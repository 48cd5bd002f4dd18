"""Backgrounds Challenge: does the answer hang on the object or on what is behind it? (Xiao et al. 2021; CAST Table 3)

Eight settings of the same foregrounds (see backgrounds_data.py). The trunk is frozen; its head is a linear layer or
k-NN on the features of a folder of one-object pictures, or a layer from a file. Pictures go in as they are where their
side is that of the network (224 in the release), else scaled. Top-1 in percent per setting, and
BG-gap = mixed_same - mixed_rand: what a wrong background costs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssl_loc.config import CfgNode
from ssl_loc.data.eval_transforms import find_transform
from ssl_loc.evaluation.backgrounds_challenge import Challenge, check_challenge, run_challenge
from ssl_loc.evaluation.backgrounds_data import load_settings
from ssl_loc.evaluation.backgrounds_head import (
    MAPS,
    NO_CLASS,
    Answer,
    Head,
    NeighbourHead,
    class_answer,
)
from ssl_loc.evaluation.build import EVALUATOR_REGISTRY
from ssl_loc.evaluation.data import EvalData, LabelledSplit, shared_images
from ssl_loc.evaluation.features import FeatureOptions, extract_split
from ssl_loc.evaluation.linear_head import LABEL, fit_linear, named_head, read_head
from ssl_loc.evaluation.weights import Weights
from ssl_loc.structures import Result
from ssl_loc.utils.errors import ConfigError, check_choice

logger = logging.getLogger(__name__)

TRAINED = ("linear", "knn")
GAP = ("mixed_same", "mixed_rand")


@EVALUATOR_REGISTRY.register(name="backgrounds")
class Backgrounds:
    """Top-1 on the eight settings of the Backgrounds Challenge and BG-gap = mixed_same - mixed_rand."""

    version = "1"
    seeded = False  # the head is fitted to convergence and nothing is drawn

    def __init__(
        self,
        train: str = "",
        head: str = "linear",
        train_transform: str = "whole",
        class_map: str = "",
        rule: str = MAPS[0],
        settings: Sequence[str] = (),
        c: float = 1.0,
        k: int = 200,
        temperature: float = 0.07,
        limit: int = 0,
        challenge: bool = False,
        challenge_images: int = 0,
        features: FeatureOptions | None = None,
    ) -> None:
        check_choice("BACKGROUNDS.MAP", rule, MAPS)
        find_transform(train_transform, "BACKGROUNDS.TRAIN_TRANSFORM")
        if head in TRAINED and not train:
            raise ConfigError(
                f"BACKGROUNDS.HEAD is {head} and BACKGROUNDS.TRAIN is empty; expected a folder <class>/<image> to fit "
                "the head on (backgrounds of tools/make_scenes.py: its objects/train), or HEAD a file with a layer"
            )
        if head not in TRAINED and train:
            raise ConfigError(f"BACKGROUNDS.TRAIN is {train} but BACKGROUNDS.HEAD {head} is not trained; drop one")
        if rule != MAPS[0] and not class_map:
            raise ConfigError(f"BACKGROUNDS.MAP is {rule}; it needs the table BACKGROUNDS.CLASS_MAP")
        self.train, self.head, self.class_map, self.rule = train, head, class_map, rule
        self.settings, self.c, self.k, self.temperature, self.limit = list(settings), c, k, temperature, limit
        self.challenge, self.challenge_images = challenge, challenge_images
        # File of a head -> digest of the weights that it serves.
        self._owners: dict[str, str] = {}
        self.features = replace(features or FeatureOptions(), transform="whole")
        self.train_transform = train_transform

    @staticmethod
    def options() -> CfgNode:
        node = CfgNode()
        # Folder <class>/<image>, or a labelled dataset (imagenet:DIR:train); the head is fitted on its frozen features.
        # Classes are matched by name with those of the settings; others may be there as well, but no answer of theirs
        # is right.
        node.TRAIN = ""
        # How its pictures become square: "whole" (as those of the settings) for pictures of their kind, "center"
        # (shorter side 256 / 224 of the size, central square) for photos as in ImageNet's folders.
        node.TRAIN_TRANSFORM = "whole"
        # "linear" (logistic regression by L-BFGS), "knn" (KNN.K and KNN.T), or a file with fc.weight and fc.bias, such
        # as the linear protocol leaves in OUT/heads. "{label}" in its name is the label of the weights.
        node.HEAD = "linear"
        # json with the class of every output of the head, -1 for none: in_to_in9.json for the 1000 classes of ImageNet.
        node.CLASS_MAP = ""
        # With CLASS_MAP: "argmax_then_map" (the release: an answer without class is wrong) or "restrict_370" (the best
        # among outputs with a class).
        node.MAP = "argmax_then_map"
        # Evaluate these settings only (all eight if empty).
        node.SETTINGS = []
        # Inverse L2 strength of the linear head on standardized features.
        node.C = 1.0
        # Also the adversarial score: every foreground (fg_mask) in front of every background (only_bg_t). Up to N x N
        # forward passes; a foreground is given up at its first wrong answer.
        node.CHALLENGE = False
        # Foregrounds and backgrounds of that score, an even sample (0 = all). Fewer backgrounds give a higher number.
        node.CHALLENGE_IMAGES = 0
        return node

    @classmethod
    def from_config(cls, options: CfgNode) -> dict[str, Any]:
        o = options.BACKGROUNDS
        return {
            "train": o.TRAIN,
            "head": o.HEAD,
            "train_transform": o.TRAIN_TRANSFORM,
            "class_map": o.CLASS_MAP,
            "rule": o.MAP,
            "settings": o.SETTINGS,
            "c": o.C,
            "k": options.KNN.K,
            "temperature": options.KNN.T,
            "limit": options.LIMIT,
            "challenge": o.CHALLENGE,
            "challenge_images": o.CHALLENGE_IMAGES,
            "features": FeatureOptions.from_options(options),
        }

    def check_weights(self, weights: Weights) -> None:
        """Every kind of weights has a trunk; a head from a file belongs to one of them."""
        weights.require_trunk()
        if self.head in TRAINED:
            return
        file = named_head(self.head, weights.label)
        if not Path(file).is_file():
            raise ConfigError(
                f"BACKGROUNDS.HEAD is '{self.head}' and there is no file {file}; expected linear, knn, or a file with "
                "fc.weight and fc.bias (OUT/heads of tools/evaluate.py --protocol linear)"
            )
        self._owners.setdefault(file, weights.digest)
        if self._owners[file] != weights.digest:
            raise ConfigError(
                f"BACKGROUNDS.HEAD {file} would be the head of several weights; each needs its own: put {LABEL} where "
                f"their labels differ (heads/{LABEL}_seed0.pth)"
            )

    def check_data(self, data: EvalData) -> None:
        """All settings with equal classes, and a head that can answer with them."""
        splits = load_settings(data.spec, self.settings, self.limit)
        if self.challenge:
            check_challenge(data.spec, next(iter(splits.values())).classes)
        train = self._train_split()
        if train is not None:
            classes = next(iter(splits.values())).classes
            class_answer(len(train.classes), classes, self.class_map, self.rule, train.classes)

    def __call__(self, weights: Weights, data: EvalData) -> Result:
        splits = load_settings(data.spec, self.settings, self.limit)
        classes = next(iter(splits.values())).classes
        size = self.features.input_size(weights)
        head, answer, details = self._head(weights, classes, size)
        rows = {}
        for name, split in splits.items():
            x, y = extract_split(weights, split, self.features)
            rows[name] = score(answer(head(x)), y, len(classes))
        metrics = {name: row["top1"] for name, row in rows.items()}
        if all(name in rows for name in GAP):
            metrics["bg_gap"] = metrics[GAP[0]] - metrics[GAP[1]]
        if self.challenge:
            found = self._challenge(weights, data, classes, head, answer)
            metrics |= {"challenge_robust": found.robust, "challenge_vulnerable": 100.0 - found.robust}
            details["challenge"] = {"backgrounds": found.backgrounds, "fooled_by": found.fooled_by}
        counts = torch.bincount(next(iter(splits.values())).labels(), minlength=len(classes))
        details |= {
            "classes": classes,
            "settings": rows,
            "chance": 100.0 * float(counts.max()) / int(counts.sum()),
            "input_size": size,
        }
        details |= self._leaks(splits, list(metrics))
        return Result("backgrounds", self.version, metrics, details=details)

    def _challenge(self, weights: Weights, data: EvalData, classes: list[str], head: Head, answer: Answer) -> Challenge:
        trunk = weights.trunk()
        size = self.features.input_size(weights)

        def classify(images: Tensor) -> Tensor:
            return answer(head(trunk.features(images)))

        return run_challenge(data.spec, classes, classify, size, self.features.batch_size, self.challenge_images)

    def _train_split(self) -> LabelledSplit | None:
        if not self.train:
            return None
        return LabelledSplit.load(f"class_folder:{self.train}" if Path(self.train).is_dir() else self.train, self.limit)

    def _head(self, weights: Weights, classes: list[str], size: int) -> tuple[Head, Answer, dict[str, Any]]:
        """The head, how it answers, and what a reader of the numbers must know of it."""
        details: dict[str, Any] = {"head": self.head, "map": self.rule if self.class_map else "none"}
        train = self._train_split()
        if train is None:
            file = named_head(self.head, weights.label)
            layer = read_head(file, weights.trunk().backbone.out_channels, weights.digest)
            answer = class_answer(layer.outputs, classes, self.class_map, self.rule, layer.classes)
            return layer, answer, details | {"head": file}
        outputs = len(train.classes)
        answer = class_answer(outputs, classes, self.class_map, self.rule, train.classes)
        x, y = extract_split(weights, train, replace(self.features, transform=self.train_transform))
        details |= {"train": self.train, "train_images": len(y), "train_classes": outputs}
        if self.head == "knn":
            details |= {"k": min(self.k, len(y)), "temperature": self.temperature}
            return NeighbourHead(x, y, outputs, self.k, self.temperature), answer, details
        return fit_linear(x, y, outputs, self.c)[0], answer, details | {"C": self.c}

    def _leaks(self, splits: Mapping[str, LabelledSplit], metrics: list[str]) -> dict[str, Any]:
        """The setting that the head was fitted on ("" for none), its pictures, and the numbers that this touches.

        These are all: the settings are cut from the same photos, so the head has seen the foregrounds or backgrounds
        of every one of them.
        """
        train, found = self._train_split(), {"": 0}
        if train is not None:
            for name, split in splits.items():
                found[name] = shared_images(train.records, split.records, (self.train, name))
        most = max(found, key=lambda name: found[name])
        if not found[most]:
            return {"train_is_a_setting": "", "train_is_of_setting_images": 0, "not_of_unseen_images": []}
        logger.warning(
            "the head is fitted on %s itself: its number is a training accuracy, and the other settings show the same "
            "foregrounds or backgrounds; none of %s is of unseen images",
            *(most, ", ".join(metrics)),
        )
        return {
            "train_is_a_setting": most,
            "train_is_of_setting_images": found[most],
            "not_of_unseen_images": metrics,
        }


def score(answers: Tensor, labels: Tensor, classes: int) -> dict[str, Any]:
    """Top-1 in percent over all images and per class, and the share of answers that are no class at all."""
    hit = answers == labels
    per_class = [
        100.0 * float(hit[labels == c].double().mean()) if bool((labels == c).any()) else None for c in range(classes)
    ]
    return {
        "top1": 100.0 * float(hit.double().mean()),
        "images": len(labels),
        "per_class": per_class,
        "no_class": 100.0 * float((answers == NO_CLASS).double().mean()),
    }
