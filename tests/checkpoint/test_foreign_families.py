"""Checkpoints as other code bases write them: modules built and named as theirs, with a torchvision network inside."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from ssl_loc.checkpoint.backbone_source import read_backbone
from ssl_loc.checkpoint.foreign_families import FAMILIES
from ssl_loc.checkpoint.foreign_trunk import take_trunk
from ssl_loc.modeling.backbone import build_backbone_from_description

Net = torchvision.models.ResNet


def drawn_net(depth: int, seed: int) -> Net:
    """A torchvision ResNet whose every tensor is random, in evaluation mode."""
    torch.manual_seed(seed)
    net = getattr(torchvision.models, f"resnet{depth}")(num_classes=16)
    for name, value in net.state_dict().items():
        if value.dim() == 1:
            value.copy_(torch.rand_like(value) + 0.5)
        elif "num_batches" in name:
            value.fill_(seed + 3)
    return net.eval()


@pytest.fixture(scope="module")
def r18() -> tuple[Net, Net]:
    """Online and target network."""
    return drawn_net(18, 1), drawn_net(18, 2)


@pytest.fixture(scope="module")
def r50() -> tuple[Net, Net]:
    return drawn_net(50, 1), drawn_net(18, 2)


def group(**children: nn.Module) -> nn.Module:
    """A module with these children."""
    module = nn.Module()
    for name, child in children.items():
        module.add_module(name, child)
    return module


def headless(net: Net, **fc: nn.Module) -> nn.Module:
    """The same network with another fc: none, or the one given."""
    children = {name: child for name, child in net.named_children() if name != "fc"}
    return group(**children, **fc)


def numbered(net: Net) -> nn.Sequential:
    return nn.Sequential(*list(net.children())[:-1])


def mlp(d: int = 16) -> nn.Sequential:
    return nn.Sequential(nn.Linear(d, d), nn.BatchNorm1d(d), nn.ReLU(), nn.Linear(d, 4))


def ddp(module: nn.Module) -> dict[str, Tensor]:
    """State dict as DistributedDataParallel gives it."""
    return group(module=module).state_dict()


def moco(a: Net, b: Net) -> dict[str, Any]:
    # facebookresearch/moco, moco/builder.py (v2: fc is an MLP) and main_moco.py
    model = group(encoder_q=headless(a, fc=mlp()), encoder_k=headless(b, fc=mlp()))
    model.register_buffer("queue", torch.zeros(4, 8))
    model.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))
    optimizer = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.03}]}
    return {"epoch": 200, "arch": "resnet50", "state_dict": ddp(model), "optimizer": optimizer}


def densecl(a: Net, b: Net) -> dict[str, Any]:
    # WXinlong/DenseCL, openselfsup/models/densecl.py: backbone is encoder_q[0] once more
    model = group(
        encoder_q=nn.Sequential(headless(a), mlp()), encoder_k=nn.Sequential(headless(b), mlp()), backbone=headless(a)
    )
    model.register_buffer("queue2", torch.zeros(4, 8))
    return {"meta": {"epoch": 200}, "state_dict": model.state_dict(), "optimizer": {}}


def moco_v3(a: Net, b: Net) -> dict[str, Any]:
    # facebookresearch/moco-v3, moco/builder.py
    model = group(base_encoder=headless(a, fc=mlp()), momentum_encoder=headless(b, fc=mlp()), predictor=mlp())
    return {"epoch": 100, "state_dict": ddp(model), "scaler": {}}


def mim_moco_v3(a: Net, b: Net) -> dict[str, Any]:
    encoder = nn.Sequential(headless(a), mlp())
    model = group(base_encoder=encoder, momentum_encoder=nn.Sequential(headless(b), mlp()), backbone=encoder[0])
    return {"state_dict": model.state_dict()}


def byol_lucidrains(a: Net, b: Net) -> dict[str, Any]:
    # lucidrains/byol-pytorch: BYOL.net is the network that online_encoder.net is too; fc stays in it
    online, target = group(net=a, projector=mlp()), group(net=b, projector=mlp())
    return group(net=a, online_encoder=online, online_predictor=mlp(), target_encoder=target).state_dict()


def byol_open(a: Net, b: Net) -> dict[str, Any]:
    # Westlake-AI/openmixup, openmixup/models/selfsup/byol.py
    online, target = nn.Sequential(headless(a), mlp()), nn.Sequential(headless(b), mlp())
    model = group(online_net=online, target_net=target, backbone=online[0], neck=online[1], head=mlp())
    return {"meta": {}, "state_dict": model.state_dict()}


def byol_yaox(a: Net, b: Net) -> dict[str, Any]:
    # yaox12/BYOL-PyTorch, model/basic_modules.py (a numbered Sequential; "projetion" is theirs) and byol_trainer.py
    online, target = (group(encoder=numbered(n), projetion=mlp()) for n in (a, b))
    model = group(online_network=online, target_network=target, predictor=mlp())
    return {"config": {"stage": "train"}, "epoch": 1, "steps": 2, "model": ddp(model), "amp": {}}


def byol_sthalles(a: Net, b: Net) -> dict[str, Any]:
    online, target = (group(encoder=numbered(n), projetion=mlp()).state_dict() for n in (a, b))
    return {"online_network_state_dict": online, "target_network_state_dict": target, "optimizer_state_dict": {}}


def robust(a: Net, b: Net) -> dict[str, Any]:
    # MadryLab/robustness, attacker.py (AttackerModel in DataParallel) and tools/helpers.py (InputNormalize)
    def normalize() -> nn.Module:
        module = nn.Module()
        module.register_buffer("new_mean", torch.tensor([0.5, 0.25, 0.125])[..., None, None])
        module.register_buffer("new_std", torch.tensor([0.2, 0.4, 1.0])[..., None, None])
        return module

    model = group(normalizer=normalize(), model=a, attacker=group(normalize=normalize(), model=a))
    return {"model": ddp(model), "optimizer": {}, "epoch": 90}


def byol_converted(a: Net, b: Net) -> dict[str, Any]:
    # ajtejankar/byol-convert: DeepMind's weights in torchvision's names, without counters
    return {key: value for key, value in a.state_dict().items() if not key.endswith("num_batches_tracked")}


def vissl(a: Net, b: Net) -> dict[str, Any]:
    # facebookresearch/vissl: the trunk's blocks are a ModuleDict
    trunk = group(_feature_blocks=headless(a)).state_dict()
    base = {"model": {"trunk": trunk, "heads": mlp().state_dict()}, "optim": {}, "loss": {}, "meters": {}}
    return {"phase_idx": 9, "iteration": 10, "classy_state_dict": {"base_model": base}, "type": "checkpoint"}


def dino(a: Net, b: Net) -> dict[str, Any]:
    teacher = group(backbone=headless(a), head=mlp()).state_dict()
    student = ddp(group(backbone=headless(b), head=mlp()))
    args = argparse.Namespace(arch="resnet50", lr=0.3)
    return {"student": student, "teacher": teacher, "optimizer": {}, "epoch": 1, "args": args, "dino_loss": {}}


def solo_learn(a: Net, b: Net) -> dict[str, Any]:
    # vturrisi/solo-learn, a Lightning checkpoint
    model = group(backbone=headless(a), classifier=nn.Linear(16, 4), projector=mlp(), momentum_backbone=headless(b))
    return {"epoch": 3, "pytorch-lightning_version": "1.6.4", "state_dict": model.state_dict(), "optimizer_states": []}


def solo_learn_old(a: Net, b: Net) -> dict[str, Any]:
    model = group(encoder=headless(a), classifier=nn.Linear(16, 4), projector=mlp())
    return {"state_dict": model.state_dict()}


def lightly(a: Net, b: Net) -> dict[str, Any]:
    # lightly's examples: nn.Sequential(*list(resnet.children())[:-1])
    model = group(
        backbone=numbered(a), projection_head=mlp(), backbone_momentum=numbered(b), projection_head_momentum=mlp()
    )
    return {"state_dict": model.state_dict(), "hyper_parameters": {}}


def barlow(a: Net, b: Net) -> dict[str, Any]:
    model = group(backbone=headless(a), projector=mlp(), bn=nn.BatchNorm1d(4, affine=False))
    return {"epoch": 5, "model": ddp(model), "optimizer": {}}


def simclr_sthalles(a: Net, b: Net) -> dict[str, Any]:
    return {"arch": "resnet18", "state_dict": group(backbone=headless(a, fc=mlp())).state_dict()}


def mmselfsup(a: Net, b: Net) -> dict[str, Any]:
    # mmselfsup 1.x, MoCo: the momentum network is wrapped
    model = group(backbone=headless(a), neck=mlp(), head=mlp(), encoder_k=group(module=nn.Sequential(headless(b))))
    return {"meta": {"epoch": 1}, "state_dict": model.state_dict()}


def pixpro(a: Net, b: Net) -> dict[str, Any]:
    model = group(encoder=headless(a), encoder_k=headless(b), projector=mlp(), projector_k=mlp())
    return {"opt": argparse.Namespace(model="PixPro"), "model": ddp(model), "epoch": 1}


def simsiam(a: Net, b: Net) -> dict[str, Any]:
    return {"state_dict": ddp(group(encoder=headless(a, fc=mlp()), predictor=mlp()))}


def simclr_spijkervet(a: Net, b: Net) -> dict[str, Any]:
    # Spijkervet/SimCLR, simclr/simclr.py: the state dict itself is saved
    return group(encoder=headless(a), projector=mlp()).state_dict()


def pycontrast(a: Net, b: Net) -> dict[str, Any]:
    # HobbitLong/PyContrast, learning/contrast_trainer.py: the momentum network is a part of its own, without DDP
    model, ema = group(encoder=headless(a), head=mlp()), group(encoder=headless(b), head=mlp())
    opt = argparse.Namespace(method="MoCov2")
    contrast = {"memory_1": torch.zeros(8, 4)}
    return {"opt": opt, "model": ddp(model), "contrast": contrast, "model_ema": ema.state_dict(), "epoch": 200}


def swav(a: Net, b: Net) -> dict[str, Any]:
    return {"state_dict": ddp(headless(a, projection_head=mlp(), prototypes=nn.Linear(4, 8, bias=False)))}


def plain(a: Net, b: Net) -> dict[str, Any]:
    return a.state_dict()


def compiled(a: Net, b: Net) -> dict[str, Any]:
    return {"model_state_dict": {f"_orig_mod.module.{key}": value for key, value in a.state_dict().items()}}


def unheard(a: Net, b: Net) -> dict[str, Any]:
    return {"net": group(vision=group(cnn=headless(a)), text=mlp()).state_dict()}


Maker = Callable[[Net, Net], dict[str, Any]]
# Writer -> (piece of the family's name, where the trunk is, groups left out).
CASES: dict[Maker, tuple[str, str, dict[str, int]]] = {
    moco: ("MoCo v1/v2", "module.encoder_q.", {"encoder_q.fc": 9, "encoder_k": 129, "queue": 1, "queue_ptr": 1}),
    densecl: ("DenseCL", "encoder_q.0.", {"encoder_q": 9, "encoder_k": 129, "backbone": 120, "queue2": 1}),
    moco_v3: (
        "MoCo v3",
        "module.base_encoder.",
        {"base_encoder.fc": 9, "momentum_encoder": 129, "predictor": 9},
    ),
    mim_moco_v3: (
        "mmselfsup MoCo v3",
        "base_encoder.0.",
        {"base_encoder": 9, "momentum_encoder": 129, "backbone": 120},
    ),
    byol_lucidrains: ("lucidrains", "online_encoder.net.", {}),
    byol_open: ("openmixup BYOL", "online_net.0.", {}),
    byol_yaox: ("BYOL-PyTorch", "module.online_network.encoder.", {}),
    byol_sthalles: ("sthalles/PyTorch-BYOL", "encoder.", {}),
    byol_converted: ("torchvision", "", {"fc": 2}),
    vissl: ("VISSL", "_feature_blocks.", {}),
    dino: ("DINO", "backbone.", {"teacher": 9, "student": 129}),
    solo_learn: (
        "solo-learn",
        "backbone.",
        {"classifier": 2, "projector": 9, "momentum_backbone": 120},
    ),
    solo_learn_old: ("solo-learn", "encoder.", {"classifier": 2, "projector": 9}),
    lightly: ("lightly", "backbone.", {}),
    barlow: ("Barlow Twins", "module.backbone.", {"projector": 9, "bn": 3}),
    simclr_sthalles: ("SimCLR (sthalles", "backbone.", {"backbone.fc": 9}),
    mmselfsup: ("mmselfsup / openmixup", "backbone.", {"neck": 9, "head": 9, "encoder_k": 120}),
    pixpro: ("PixPro", "module.encoder.", {"encoder_k": 120, "projector": 9, "projector_k": 9}),
    simsiam: ("SimSiam", "module.encoder.", {"encoder.fc": 9, "predictor": 9}),
    simclr_spijkervet: ("Spijkervet", "encoder.", {"projector": 9}),
    pycontrast: ("PyContrast", "module.encoder.", {"head": 9, "contrast": 1, "model_ema": 129}),
    swav: ("SwAV", "module.", {"projection_head": 9, "prototypes": 1}),
    robust: ("MadryLab", "module.model.", {"normalizer": 2, "fc": 2, "attacker": 124}),
    plain: ("torchvision", "", {"fc": 2}),
    compiled: ("torchvision", "_orig_mod.module.", {"fc": 2}),
    unheard: ("no known family", "vision.cnn.", {}),
}


# What the repositories' own data code does: Normalize with ImageNet's numbers, but for those that end with ToTensor and
# the one whose file has the numbers inside. 0..255.
IMAGENET = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
UNIT = ([0.0] * 3, [255.0] * 3)
OTHER_PIXELS = {
    byol_sthalles: UNIT,
    simclr_sthalles: UNIT,
    simclr_spijkervet: UNIT,
    robust: ([127.5, 63.75, 31.875], [51.0, 102.0, 255.0]),
}


def features(net: Net, images: Tensor) -> Tensor:
    """What torchvision's network puts into its classifier."""
    with torch.no_grad():
        return numbered(net)(images).flatten(1)


def check_features(file_model: dict[str, Tensor], description: dict[str, Any], net: Net) -> None:
    """The trunk that this project builds computes what torchvision's network does."""
    backbone = build_backbone_from_description(description).eval()
    backbone.load_state_dict(file_model)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        found = backbone.pooled(backbone(images))
    torch.testing.assert_close(found, features(net, images), rtol=1e-4, atol=1e-4)


def trunk_of_net(net: Net) -> dict[str, Tensor]:
    return {key: value for key, value in net.state_dict().items() if not key.startswith("fc.")}


def check_taken(write: Maker, nets: tuple[Net, Net]) -> None:
    """Every tensor of the online network, under its torchvision name, and nothing of the other."""
    name, prefix, left = CASES[write]
    taken = take_trunk(write(*nets), "given.pth")
    wanted = trunk_of_net(nets[0])
    assert taken.model.keys() == wanted.keys()
    counted = write is byol_converted
    for key, value in wanted.items():
        expected = torch.zeros(()) if counted and key.endswith("num_batches_tracked") else value
        assert torch.equal(taken.model[key], expected.to(value.dtype)), key
    assert name in taken.family and taken.prefix == prefix
    assert not left or taken.left_out == left
    assert (taken.pixels.mean, taken.pixels.std) == OTHER_PIXELS.get(write, IMAGENET)
    assert taken.pixels.in_file == (write is robust) and not taken.ask
    # Asked for by name, the same trunk is of the same family.
    part = {dino: "teacher.", byol_sthalles: "online_network_state_dict."}.get(write, "")
    named = take_trunk(write(*nets), "given.pth", part + prefix)
    assert (named.family, named.pixels, named.ask) == (taken.family, taken.pixels, taken.ask)


@pytest.mark.parametrize("write", CASES, ids=lambda write: write.__name__)
def test_the_trunk_of_every_family_is_taken_whole(write: Maker, r18: tuple[Net, Net]) -> None:
    check_taken(write, r18)


@pytest.mark.parametrize("write", [moco, vissl, lightly, plain], ids=lambda write: write.__name__)
def test_also_of_a_resnet_50(write: Maker, r50: tuple[Net, Net]) -> None:
    a, _ = r50
    taken = take_trunk(write(a, a), "given.pth")
    wanted = trunk_of_net(a)
    assert taken.model.keys() == wanted.keys() and len(wanted) == 318
    assert all(torch.equal(taken.model[key], value) for key, value in wanted.items())


def test_every_family_of_the_table_is_tried() -> None:
    named = [name for name, _, _ in CASES.values()]
    assert all(any(piece in family.name for piece in named) for family in FAMILIES if not family.ask)


@pytest.mark.parametrize(("write", "depth"), [(moco, 50), (byol_yaox, 18)])
def test_the_network_computes_what_torchvision_does(
    write: Maker, depth: int, r18: tuple[Net, Net], r50: tuple[Net, Net], tmp_path: Path
) -> None:
    nets = r18 if depth == 18 else (r50[0], r50[0])
    torch.save(write(*nets), tmp_path / "given.pth.tar")
    file = read_backbone(tmp_path / "given.pth.tar")
    assert file.meta["backbone"]["kwargs"]["depth"] == depth
    check_features(file.model, file.meta["backbone"], nets[0])
