"""Who writes what: the files of other people's pretrainings, known by the names of their tensors.

Names are compared without the wrappers that only say how a network was run or stored (``NEUTRAL``), and with the name
of the part of the file they lie in: "module.encoder_q.conv1.weight" of the part "state_dict" is
"encoder_q.conv1.weight", and "module.encoder.conv1.weight" of the part "model_ema" is "model_ema.encoder.conv1.weight".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

# Wrappers: DistributedDataParallel, torch.compile, and the usual parts of a checkpoint.
NEUTRAL = frozenset({"module", "_orig_mod", "state_dict", "model", "model_state", "model_state_dict"})

# How pixels (RGB) were prepared, by name: mean and std on the 0..255 scale. A file without a statement does not say it;
# these are what the published code of the family does.
PIXELS: dict[str, tuple[list[float], list[float]]] = {
    # torchvision's Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)).
    "imagenet": ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]),
    # ToTensor alone: 0..1.
    "unit": ([0.0, 0.0, 0.0], [255.0, 255.0, 255.0]),
}


@dataclass(frozen=True)
class Family:
    """One way of naming.

    Attributes:
        name: for messages.
        trunk: where the trunk to be taken is: the query or online network, or the teacher where that is what its
            authors evaluate.
        others: trunks beside it that are not taken: the momentum (target) network, or the same one by another name.
        marks: beginnings of other names in the file, of which one at least must be there; empty = no condition.
        pixels: of ``PIXELS``.
        ask: what its users do differently from each other, so that nothing about pixels and strides is assumed and a
            statement is asked for; "" = assume.
    """

    name: str
    trunk: tuple[str, ...]
    others: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    pixels: str = "imagenet"
    ask: str = ""

    def marked_by(self, names: Iterable[str]) -> str:
        """The first of ``names`` that is a mark of this family, or ""."""
        return next((name for name in names if name.startswith(self.marks)), "") if self.marks else ""


_FINE_TUNED = (
    "trained further for detection or segmentation; users of such code train with several pixel statistics, channel "
    "orders, strides and dilations"
)

# The first that fits is taken, so what has marks comes before what has none. Sources: the model definitions and saving
# code of the repositories named.
FAMILIES: tuple[Family, ...] = (
    # facebookresearch/moco; salesforce/CAST and nanxuanzhao/DiLo are built on it and keep its names.
    Family("MoCo v1/v2 (CAST, DiLo and others keep its names)", ("encoder_q.",), ("encoder_k.",)),
    # OpenSelfSup, DenseCL and mmselfsup 0.x: Sequential(backbone, neck), and the backbone once more by its own name.
    Family("OpenSelfSup / mmselfsup MoCo, DenseCL", ("encoder_q.0.",), ("encoder_k.0.", "backbone.")),
    # facebookresearch/moco-v3.
    Family("MoCo v3", ("base_encoder.",), ("momentum_encoder.",)),
    # mmselfsup's MoCo v3.
    Family("mmselfsup MoCo v3", ("base_encoder.0.",), ("momentum_encoder.0.", "backbone.")),
    # lucidrains/byol-pytorch: the user's network is there twice, as "net" and inside the online encoder.
    Family("BYOL (lucidrains/byol-pytorch)", ("online_encoder.net.",), ("target_encoder.net.", "net.")),
    # OpenSelfSup, mmselfsup 0.x and openmixup.
    Family("OpenSelfSup / openmixup BYOL", ("online_net.0.",), ("target_net.0.", "backbone.")),
    # yaox12/BYOL-PyTorch (a numbered Sequential) and Lightning Bolts (torchvision's names).
    Family("BYOL (BYOL-PyTorch, Lightning Bolts)", ("online_network.encoder.",), ("target_network.encoder.",)),
    # sthalles/PyTorch-BYOL: one part of the file for each network; data/transforms.py ends with ToTensor.
    Family(
        "BYOL (sthalles/PyTorch-BYOL)",
        ("online_network_state_dict.encoder.",),
        ("target_network_state_dict.encoder.",),
        pixels="unit",
    ),
    # facebookresearch/vissl; also with its outer parts taken off.
    Family(
        "VISSL",
        ("classy_state_dict.base_model.trunk._feature_blocks.", "trunk._feature_blocks.", "_feature_blocks."),
        ("classy_state_dict.ema_model.trunk._feature_blocks.",),
    ),
    # facebookresearch/dino evaluates the teacher.
    Family("DINO", ("teacher.backbone.", "teacher."), ("student.backbone.", "student.")),
    # Networks for detection and segmentation, whose trunks have the names that pretrainings use. torchvision's heads
    # for segmentation are Sequentials that end in number 4; DeepLab's begins with branches "convs".
    Family(
        "torchvision segmentation (DeepLab, FCN)",
        ("backbone.",),
        marks=("aux_classifier.", "classifier.0.convs.", "classifier.4."),
        ask=_FINE_TUNED,
    ),
    Family("torchvision detection (Faster R-CNN, RetinaNet)", ("backbone.body.",), ask=_FINE_TUNED),
    # facebookresearch/detr and what is built on it.
    Family("DETR", ("backbone.0.body.",), ask=_FINE_TUNED),
    Family(
        "mmdetection / mmsegmentation",
        ("backbone.",),
        marks=("rpn_head.", "roi_head.", "bbox_head.", "mask_head.", "decode_head.", "auxiliary_head."),
        ask=_FINE_TUNED,
    ),
    # vturrisi/solo-learn: "encoder" before its version 1.0.6. Every method there trains a linear classifier beside.
    Family(
        "solo-learn",
        ("backbone.", "encoder."),
        ("momentum_backbone.", "momentum_encoder."),
        ("classifier.weight", "momentum_backbone.", "momentum_classifier."),
    ),
    # lightly-ai/lightly: Sequential(*list(resnet.children())[:-1]).
    Family(
        "lightly",
        ("backbone.",),
        ("backbone_momentum.", "teacher_backbone."),
        ("projection_head", "prediction_head", "backbone_momentum."),
    ),
    # facebookresearch/barlowtwins and vicreg.
    Family("Barlow Twins, VICReg", ("backbone.",), marks=("projector.",)),
    # sthalles/SimCLR: a torchvision network whose fc is the head; its pixels are ToTensor's.
    Family("SimCLR (sthalles/SimCLR)", ("backbone.",), marks=("backbone.fc.",), pixels="unit"),
    # open-mmlab: OpenSelfSup, mmselfsup 1.x, openmixup, mmpretrain.
    Family(
        "OpenSelfSup / mmselfsup / openmixup",
        ("backbone.",),
        ("encoder_k.0.", "target_net.0.", "momentum_encoder.0."),
        ("neck.", "head.", "encoder_k.", "target_net."),
    ),
    # zdaxie/PixPro.
    Family("PixPro", ("encoder.",), ("encoder_k.",), ("projector_k.",)),
    # facebookresearch/simsiam.
    Family("SimSiam", ("encoder.",), marks=("predictor.",)),
    # Spijkervet/SimCLR: ToTensor without normalisation.
    Family("SimCLR (Spijkervet/SimCLR)", ("encoder.",), marks=("projector.",), pixels="unit"),
    # HobbitLong/PyContrast: MoCo v1/v2, InsDis, CMC, PIRL, InfoMin; the momentum network is a part of its own.
    Family("PyContrast", ("encoder.",), ("model_ema.encoder.",), ("head.", "head_jig.")),
    # MadryLab/robustness, robustness/attacker.py: "model", and the same one once more in "attacker"; the normalisation
    # lies in the file, so that ``pixels`` is not needed.
    Family("MadryLab robustness", ("",), ("attacker.",), ("normalizer.new_mean",)),
    # facebookresearch/swav, also DeepCluster v2 and SeLa v2.
    Family("SwAV, DeepCluster v2", ("",), marks=("projection_head.", "prototypes.")),
    # torchvision, timm, InstDisc, pytorch/examples, and whatever was converted to these names.
    Family("torchvision / timm names", ("",)),
)


def plain_name(part: str, key: str) -> str:
    """A tensor's (or prefix's) name without wrappers: ("state_dict", "module.encoder_q.") -> "encoder_q."."""
    return "".join(f"{word}." for word in [*part.split("."), *key.split(".")] if word and word not in NEUTRAL)


def family_of(trunks: Collection[str], names: Collection[str]) -> tuple[Family, str, str] | None:
    """The first family that has one of these trunks: (family, plain prefix of its trunk, name that marks it or "").

    Args:
        trunks: plain prefixes of all trunks in the file.
        names: plain names of everything in the file.
    """
    for family in FAMILIES:
        prefix = next((prefix for prefix in family.trunk if prefix in trunks), None)
        if prefix is None:
            continue
        mark = family.marked_by(names)
        if mark or not family.marks:
            return family, prefix, mark
    return None


def family_of_prefix(prefix: str, trunks: Collection[str], names: Collection[str]) -> tuple[Family, str] | None:
    """The family of a file of which the trunk under one prefix is wanted: (family, name that marks it or "").

    That of the whole file, if the trunk is one of those it knows; else what it would be without the other trunks.
    """
    match = family_of(trunks, names)
    if match is None or prefix not in (*match[0].trunk, *match[0].others):
        match = family_of({prefix}, names)
    return None if match is None else (match[0], match[2])
