"""The linear classifier against scikit-learn's own answer, and which class is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from ssl_loc.evaluation.class_probe import ClassProbe, ProbeOptions, fit_probe
from ssl_loc.evaluation.data import EvalData
from ssl_loc.utils.errors import ConfigError, DataError


def blobs(classes: int, n: int = 60) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(classes)
    y = torch.arange(n) % classes
    x = torch.randn(n, 6, generator=generator) * torch.tensor([1.0, 10, 0.1, 1, 1, 0]) + 5
    x[:, 0] += y
    return x, y


@pytest.mark.parametrize("classes", [2, 4])
def test_raw_features_give_the_answer_of_scikit_learns_pipeline(classes: int) -> None:
    x, y = blobs(classes)
    weight, bias = fit_probe(x, y, classes, c=0.5)
    peer = make_pipeline(StandardScaler(), LogisticRegression(C=0.5, max_iter=1000))
    peer.fit(x.double().numpy(), y.numpy())
    test = torch.randn(20, 6, generator=torch.Generator().manual_seed(9)) * 3 + 5
    test[:, 5] = 5  # constant in training: its weight is 0, whatever comes
    expected = torch.from_numpy(peer.predict_proba(test.double().numpy())).float()
    torch.testing.assert_close((test @ weight.T + bias).softmax(1), expected, rtol=1e-4, atol=1e-5)
    assert not weight[:, 5].any()


def test_a_class_without_images_is_never_predicted() -> None:
    x, y = blobs(2)
    weight, bias = fit_probe(x, y * 2, 3)
    assert set((x @ weight.T + bias).argmax(1).tolist()) <= {0, 2}
    with pytest.raises(DataError, match="all 60 images are of one class"):
        fit_probe(x, torch.zeros_like(y), 2)


def test_which_class_is_asked_for() -> None:
    logits = torch.tensor([[0.0, 1.0], [3.0, 2.0], [0.0, 5.0]])
    labels = torch.tensor([0, -1, 1])
    assert ProbeOptions(target="auto").choose(logits, labels).tolist() == [0, 0, 1]
    assert ProbeOptions(target="predicted").choose(logits, labels).tolist() == [1, 0, 1]
    with pytest.raises(DataError, match="1 images have no class"):
        ProbeOptions(target="true").choose(logits, labels)
    assert ProbeOptions(target="true").choose(logits, labels.clamp(min=0)).tolist() == [0, 0, 1]
    probe = ClassProbe(torch.eye(2), torch.tensor([0.0, 0.5]), ["a", "b"], "x", 1)
    score = ProbeOptions().score(probe, torch.tensor([[2.0, 3.0]]), torch.tensor([1]))
    assert score.tolist() == [3.5]


def test_training_set_is_named_or_asked_for(tmp_path: Path) -> None:
    assert ProbeOptions().source(EvalData("a,b")) == "a"
    assert ProbeOptions(data="c").source(EvalData("a,b")) == "c"
    with pytest.raises(DataError, match="one dataset.*CLASS_GROUNDING.PROBE"):
        ProbeOptions().source(EvalData("a"))
    with pytest.raises(ConfigError, match="TARGET is 'truth'.*true"):
        ProbeOptions(target="truth")
    with pytest.raises(ConfigError, match=r"INPUT_GRADIENT\.C is 0"):
        ProbeOptions(c=0, node="INPUT_GRADIENT")
