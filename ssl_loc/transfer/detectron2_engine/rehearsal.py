"""Everything of a job but its steps: the recipe's keys, the detector built, the weights in it."""

from __future__ import annotations

from ssl_loc.transfer.build import TransferJob
from ssl_loc.transfer.class_names import check_detector_classes
from ssl_loc.transfer.detector_check import open_detector
from ssl_loc.transfer.detector_file import DETECTRON2, load_detector_into
from ssl_loc.transfer.detectron2_engine.config import adapt_cfg_to_host, to_detectron2
from ssl_loc.transfer.detectron2_engine.model import build_detector
from ssl_loc.transfer.detectron2_engine.trunk import TrunkShape, check_levels, fill_trunk
from ssl_loc.transfer.recipe import Recipe, architecture
from ssl_loc.transfer.run import described_backbone
from ssl_loc.transfer.weights import FRESH_DETECTRON2, detectron2_key, load_trunk
from ssl_loc.utils.errors import ConfigError, UserError


def problems(recipe: Recipe) -> list[str]:
    """See :class:`ssl_loc.transfer.build.DetectionEngine`."""
    try:
        to_detectron2(recipe)
    except UserError as error:
        return [str(error)]
    return []


def rehearse(job: TransferJob) -> str:
    """See :class:`ssl_loc.transfer.build.DetectionEngine`."""
    recipe = job.recipe
    detector = None if job.detector is None else open_detector(job.detector, recipe)
    if detector is not None:
        check_detector_classes(detector, job.classes)
    stored = detector.backbone() if detector else job.trunk.meta.get("backbone") if job.trunk else None
    cfg = to_detectron2(recipe)
    shape = TrunkShape.from_description(stored or described_backbone(recipe))
    check_levels(cfg, shape)
    fill_trunk(cfg, shape)
    adapt_cfg_to_host(cfg, 1)
    model = build_detector(cfg, recipe.SEED)
    if detector is not None:
        load_detector_into(model, detector, DETECTRON2)
        return f"all {len(model.state_dict())} tensors of the detector are filled"
    if job.trunk is None:
        raise ConfigError("a fine-tuning needs a trunk; give --weights FILE or --weights random")
    return str(load_trunk(model, job.trunk.state, architecture(recipe), detectron2_key, FRESH_DETECTRON2))
