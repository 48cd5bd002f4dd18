"""Checkpoints: rotation, the last one, what is refused and how."""

from __future__ import annotations

import io
import pickle
import random
import warnings
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
    (folder / "pickle.pth").write_bytes(pickle.dumps({"model": Foreign()}))
    (folder / "empty.pth").touch()
    (folder / "junk.pth").write_text("junk\n")
    backbone = {"format": "ssl_loc.backbone", "version": 1, "model": {}}
    d2 = {"proposal_generator.rpn_head.conv.bias": torch.zeros(1), "roi_heads.res5.norm.bias": torch.zeros(1)}
    return {
        "pickle": folder / "pickle.pth",
        "empty": folder / "empty.pth",
        "junk": folder / "junk.pth",
        "part": save(folder / "part.pth", {**backbone, "meta": 3}),
        "no version": save(folder / "noversion.pth", {"format": "ssl_loc.backbone", "model": {}}),
        "no tensor": save(folder / "notensor.pth", {**backbone, "model": {"conv1.weight": 1}, "meta": {}}),
        "odd format": save(folder / "odd.pth", {"format": ["x"], "x": torch.zeros(1)}),
        "torchvision detector": save(folder / "d.pth", {"format": "ssl_loc.detector", "engine": "torchvision"}),
        "detectron2 detector": save(folder / "d2.pth", {"model": d2, "about": {"engine": "detectron2"}}),
        "model zoo": save(folder / "zoo.pth", {"model": d2}),
        "text": text,
        "cut": folder / "cut.pth",
        "objects": save(folder / "objects.pth", {"model": Foreign()}),
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
        ("junk", r"is not a torch file .5 bytes, starting with b'junk"),
        ("empty", "is empty .0 bytes."),
        ("pickle", "holds Python objects .a plain pickle.*re-save its state_dict"),
        ("objects", r"holds Python objects \(\S+\.Foreign\), not only tensors"),
        ("part", "calls itself a backbone exported .* but has no usable meta; it is damaged"),
        ("no version", "calls itself a backbone exported .* but has no usable version, meta"),
        ("no tensor", "conv1.weight in .* is no tensor"),
        ("odd format", "an unknown state dict of 1 tensors"),
        ("torchvision detector", "a detector that was fine-tuned on the torchvision engine"),
        ("detectron2 detector", "a detector that was fine-tuned on the detectron2 engine"),
        ("model zoo", "a foreign file whose 'model' is a detectron2 detector"),
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


def test_every_damaged_file_ends_in_one_sentence(tmp_path: Path) -> None:
    """Junk, and good files cut or with changed bytes, in both forms of torch.save: read, or a WeightsError."""
    draw = random.Random(0)
    content = {"format": "ssl_loc.backbone", "version": 1, "model": {"a": torch.ones(3)}, "meta": {"b": [1, 2.5, "x"]}}
    good = []
    for zipped in (True, False):
        stream = io.BytesIO()
        torch.save(content, stream, _use_new_zipfile_serialization=zipped)
        good.append(stream.getvalue())
    # The letters of pickle's instructions reach far into the unpickler, as text does by chance.
    instructions = b"c(}]KMXqtR.bsu012aeldioNQPghjr\x81\x85\x86\x87\x88\x89\x8a}G\x00\x01"
    files = [bytes([first]) + b"unk\n" for first in range(256)]
    files += [draw.randbytes(draw.randrange(200)) for _ in range(100)]
    files += [b"\x80\x02" + bytes(draw.choices(instructions, k=draw.randint(1, 30))) for _ in range(200)]
    for whole in good:
        files += [whole[: draw.randrange(len(whole))] for _ in range(30)]
        for _ in range(150):
            changed = bytearray(whole)
            for _ in range(draw.choice((1, 2, 5, 30))):
                changed[draw.randrange(len(changed))] = draw.randrange(256)
            files.append(bytes(changed))
    path = tmp_path / "f.pth"
    refused = set()
    for data in files:
        path.write_bytes(data)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                load_backbone(path)
            except WeightsError as error:
                assert str(path) in str(error) and "\n" not in str(error) and len(str(error)) < 500
                refused.add(str(error).split("torch file (")[-1].split()[0])
        assert not [str(w.message) for w in warned if "pickle" in str(w.message)]
    # Not only what torch documents: these came out of its unpickler.
    assert {"RuntimeError", "UnpicklingError", "IndexError", "KeyError"} <= refused


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
