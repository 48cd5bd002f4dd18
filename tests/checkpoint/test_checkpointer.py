"""Checkpoints: rotation, the last one, what is refused and how."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from ssl_loc.checkpoint import Checkpointer, load_backbone, load_checkpoint, method_state
from ssl_loc.checkpoint.files import describe, tensor_digest
from ssl_loc.checkpoint.resume import check_resumable
from ssl_loc.utils.errors import ConfigError, WeightsError

STATE: dict[str, Any] = {"model": {"method.w": torch.ones(2), "losses.v": torch.zeros(1)}, "config": {}, "meta": {}}


def test_rotation_keeps_the_newest_and_the_last(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path, keep=2)
    for iteration in (5, 10, 15, 20):
        checkpointer.save(iteration, STATE)
    assert [p.name for p in checkpointer.all()] == ["iter_0000015.pth", "iter_0000020.pth"]
    assert checkpointer.last() == checkpointer.path_of(20)
    # A run continued from an older checkpoint: the last one written stays, whatever its number.
    Checkpointer(tmp_path, keep=1).save(12, STATE)
    assert checkpointer.path_of(12).is_file() and checkpointer.last() == checkpointer.path_of(12)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, STATE)

    def broken(content: Any, stream: Any) -> None:
        stream.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(OSError, match="disk full"):
        checkpointer.save(2, STATE)
    assert [p.name for p in checkpointer.folder.iterdir() if p.suffix == ".pth" or "iter" in p.name] == [
        "iter_0000001.pth"
    ]
    assert load_checkpoint(tmp_path)["iteration"] == 1


def test_last_checkpoint_that_is_gone(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path)
    assert checkpointer.last() is None
    checkpointer.save(1, STATE)
    (checkpointer.folder / "last_checkpoint").write_text("iter_0000009.pth\n")
    with pytest.raises(
        WeightsError, match="names iter_0000009.pth, which is not there; checkpoints there: iter_0000001.pth"
    ):
        checkpointer.last()


def test_method_state_is_without_prefix_and_losses(tmp_path: Path) -> None:
    Checkpointer(tmp_path).save(1, STATE)
    assert list(method_state(load_checkpoint(tmp_path))) == ["w"]


def save(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


class Foreign:
    """Something only pickle can store."""


def foreign_files(folder: Path) -> dict[str, Path]:
    text = folder / "notes.pth"
    text.write_text("not weights at all")
    cut = save(folder / "whole.pth", {"a": torch.zeros(1000)}).read_bytes()
    (folder / "cut.pth").write_bytes(cut[: len(cut) // 2])
    (folder / "objects.pth").write_bytes(pickle.dumps({"model": Foreign()}))
    return {
        "text": text,
        "cut": folder / "cut.pth",
        "objects": folder / "objects.pth",
        "moco": save(folder / "moco.pth", {"state_dict": {"module.encoder_q.conv1.weight": torch.zeros(1)}}),
        "torchvision": save(
            folder / "r50.pth", {"conv1.weight": torch.zeros(1), "layer4.0.conv1.weight": torch.zeros(1)}
        ),
        "list": save(folder / "list.pth", [1, 2]),
        "newer": save(folder / "new.pth", {"format": "ssl_loc.backbone", "version": 99}),
        "missing": folder / "nothing.pth",
        "folder": folder,
    }


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("text", "is not a torch file .18 bytes"),
        ("cut", "cannot be read as a torch file.*cut short"),
        ("objects", "holds Python objects"),
        (
            "moco",
            "whose 'state_dict' is a checkpoint of the official MoCo or CAST code.*expected a backbone exported by",
        ),
        ("torchvision", "plain ResNet state dict in torchvision's names, without ssl_loc's meta"),
        ("list", "is a list, not a dictionary"),
        ("newer", "version 99; this ssl_loc reads up to 1"),
        ("missing", "no file"),
        ("folder", "is a folder; expected a weight file"),
    ],
)
def test_wrong_files_are_named_in_one_sentence(tmp_path: Path, name: str, words: str) -> None:
    path = foreign_files(tmp_path)[name]
    with pytest.raises(WeightsError, match=words) as error:
        load_backbone(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_checkpoint_for_backbone_says_how_to_export(tmp_path: Path) -> None:
    path = Checkpointer(tmp_path).save(1, STATE)
    with pytest.raises(WeightsError, match="a checkpoint of an ssl_loc run.*run tools/export_backbone.py"):
        load_backbone(path)


def test_describe_without_tensors() -> None:
    assert describe({"a": 1}) == "a dictionary without tensors (keys 'a')"
    assert "unknown state dict of 1 tensors, the first is 'x'" in describe({"x": torch.zeros(1)})


def test_digest_sees_names_types_shapes_and_values_but_not_memory_layout() -> None:
    x = torch.arange(24.0).reshape(1, 2, 3, 4)
    base = tensor_digest({"a": x})
    assert tensor_digest({"a": x.contiguous(memory_format=torch.channels_last)}) == base
    changed = [{"b": x}, {"a": x.double()}, {"a": x.reshape(2, 12)}, {"a": x + 1}, {"a": x, "b": torch.zeros(())}]
    assert len({base, *(tensor_digest(c) for c in changed)}) == 6


def test_resumable_configs() -> None:
    stored = {"SEED": 0, "OUTPUT_DIR": "a", "SOLVER": {"BASE_LR": 0.1, "MAX_ITER": 5}, "OLD": 1}
    assert check_resumable(stored, {**stored, "NEW": 2}, "f") == []
    longer = {**stored, "OUTPUT_DIR": "b", "SOLVER": {"BASE_LR": 0.1, "MAX_ITER": 9}}
    assert check_resumable(stored, longer, "f") == ["OUTPUT_DIR 'a' -> 'b'", "SOLVER.MAX_ITER 5 -> 9"]
    with pytest.raises(ConfigError, match="SEED 0 -> 1; SOLVER.BASE_LR 0.1 -> 0.2.*MODEL.INIT_FROM f"):
        check_resumable(stored, {"SEED": 1, "SOLVER": {"BASE_LR": 0.2, "MAX_ITER": 9}}, "f")
