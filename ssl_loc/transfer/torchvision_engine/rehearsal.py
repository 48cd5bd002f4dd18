"""Everything of a job but its steps: the recipe's keys, the detector built, the weights in it."""

from __future__ import annotations

import torch

from ssl_loc.transfer.build import TransferJob
from ssl_loc.transfer.class_names import check_detector_classes
from ssl_loc.transfer.detector_check import open_detector
from ssl_loc.transfer.detector_file import TORCHVISION, load_detector_into
from ssl_loc.transfer.recipe import architecture
from ssl_loc.transfer.torchvision_engine.model import build_detector
from ssl_loc.transfer.weights import FRESH_TORCHVISION, load_trunk, torchvision_key
from ssl_loc.utils.errors import ConfigError


def rehearse(job: TransferJob) -> str:
    """See :class:`ssl_loc.transfer.build.DetectionEngine`."""
    recipe = job.recipe
    torch.manual_seed(recipe.SEED)
    if job.detector is not None:
        file = open_detector(job.detector, recipe)
        check_detector_classes(file, job.classes)
        model = build_detector(recipe, file.backbone())
        load_detector_into(model, file, TORCHVISION)
        return f"all {len(model.state_dict())} tensors of the detector are filled"
    if job.trunk is None:
        raise ConfigError("a fine-tuning needs a trunk; give --weights FILE or --weights random")
    model = build_detector(recipe, job.trunk.meta["backbone"])
    return str(load_trunk(model, job.trunk.state, architecture(recipe), torchvision_key, FRESH_TORCHVISION))
