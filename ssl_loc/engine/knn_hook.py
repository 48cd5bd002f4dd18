"""k-NN accuracy of the trunk while it is trained: ``ENGINE.EVAL_KNN``."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from ssl_loc.config import CfgNode
from ssl_loc.data.eval_transforms import eval_transform
from ssl_loc.data.labelled import LabelledSplit, load_splits, shared_images
from ssl_loc.engine.train_loop import Hook, TrainLoop
from ssl_loc.layers.neighbours import neighbours, top_hits, vote
from ssl_loc.modeling import Method
from ssl_loc.utils import comm
from ssl_loc.utils.errors import ConfigError

_logger = logging.getLogger(__name__)


class EvalKNN(Hook):
    """Every ``period`` steps, and at the end: top-1 of the weighted k-NN vote, as "knn_top1" among the numbers of the
    step. The training does not notice: no random draw, no norm statistic, no gradient.

    The protocol "knn" of tools/evaluate.py gives the same number for the checkpoint of that step.

    Args:
        train, val: labelled images; both are read anew at every measurement.
        period: steps.
        k: neighbours that vote, clamped to the training images.
        temperature: of the vote, exp(cosine / T).
        size: side of the network's input, px.
        batch_size: images per forward.
    """

    def __init__(
        self,
        train: LabelledSplit,
        val: LabelledSplit,
        period: int,
        k: int = 200,
        temperature: float = 0.07,
        size: int = 224,
        batch_size: int = 64,
    ) -> None:
        if period < 1 or k < 1 or batch_size < 1 or temperature <= 0:
            raise ConfigError(
                f"ENGINE.EVAL_KNN has PERIOD {period}, K {k}, BATCH_SIZE {batch_size}, T {temperature}; expected whole "
                "numbers of 1 or more and a positive temperature"
            )
        self.train, self.val, self.period = train, val, period
        self.k, self.temperature, self.size, self.batch_size = k, temperature, size, batch_size

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        o = cfg.ENGINE.EVAL_KNN
        if not o.DATA:
            raise ConfigError(
                f"ENGINE.EVAL_KNN.PERIOD is {o.PERIOD} but ENGINE.EVAL_KNN.DATA is empty; give a folder with train/ "
                "and val/ of class folders, or two datasets separated by a comma (PERIOD 0 switches this off)"
            )
        train, val = load_splits(o.DATA, o.LIMIT, "ENGINE.EVAL_KNN.DATA")
        shared_images(train.records, val.records, (train.name, val.name))  # warns
        return {
            "train": train,
            "val": val,
            "period": o.PERIOD,
            "k": o.K,
            "temperature": o.T,
            "size": o.SIZE or cfg.AUGMENT.SIZE,
            "batch_size": o.BATCH_SIZE,
        }

    def after_step(self, loop: TrainLoop) -> None:
        done = loop.iteration + 1
        if done % self.period == 0 or done == loop.max_iter:
            top1 = self.measure(loop.step.model.method, loop.step.device)
            loop.extra["knn_top1"] = top1
            _logger.info("iter %d: k-NN top-1 %.2f %% on %s", done, top1, self.val.name)

    def measure(self, method: Method, device: torch.device) -> float:
        """Top-1 in percent. Collective: every process takes each world-th image."""
        modules = {module: module.training for module in method.modules()}
        method.eval()
        try:
            train = comm.gather_strided(self._features(method, self.train, device), len(self.train))
            mine = self._features(method, self.val, device)
        finally:
            for module, mode in modules.items():
                module.training = mode
        cosines, indices = neighbours(train, mine, self.k, device)
        scores = vote(cosines, self.train.labels()[indices], len(self.train.classes), self.temperature)
        hits = top_hits(scores, self.val.labels()[comm.get_rank() :: comm.get_world_size()]).sum()
        total = comm.all_reduce_mean(hits.to(device, torch.float64)) * comm.get_world_size()
        return 100.0 * float(total) / len(self.val)

    @torch.no_grad()
    def _features(self, method: Method, split: LabelledSplit, device: torch.device) -> Tensor:
        """Pooled features float32 (n, D), on the CPU, of every world-th image beginning at this process's rank."""
        trunk = method.trunk()
        mine = range(comm.get_rank(), len(split), comm.get_world_size())
        parts = [torch.zeros(0, trunk.out_channels)]
        for start in range(0, len(mine), self.batch_size):
            images = [eval_transform(split.image(i), self.size) for i in mine[start : start + self.batch_size]]
            pixels = method.normalize(torch.stack(images).to(device))
            # Not the compiled call: it would be compiled once more for these sizes.
            parts.append(trunk.pooled(trunk.forward(pixels)).float().cpu())
        return torch.cat(parts)
