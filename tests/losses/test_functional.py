"""Loss formulas against slow ones and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from ssl_loc.losses.functional import cosine, cosine_attention, info_nce, negative_cosine, nt_xent
from ssl_loc.utils.errors import ConfigError


def _unit(*shape: int, dim: int, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=g, dtype=torch.float64), dim=dim)


def test_info_nce_against_the_formula_written_out() -> None:
    q, k, queue, tau = _unit(4, 8, dim=1), _unit(4, 8, dim=1, seed=1), _unit(8, 11, dim=0, seed=2), 0.2
    total = 0.0
    for n in range(4):
        numerator = math.exp(sum(float(q[n, c] * k[n, c]) for c in range(8)) / tau)
        others = [math.exp(sum(float(q[n, c] * queue[c, i]) for c in range(8)) / tau) for i in range(11)]
        total -= math.log(numerator / (numerator + sum(others)))
    result = info_nce(q, k, queue, tau)
    assert float(result.loss) == pytest.approx(total / 4, rel=1e-9)
    torch.testing.assert_close(result.negative, q @ queue)


@pytest.mark.parametrize(("pos", "expected"), [(0.0, math.log(8)), (1.0, math.log(1 + 7 * math.exp(-1 / 0.07)))])
def test_info_nce_closed_forms(pos: float, expected: float) -> None:
    """Orthogonal negatives: a positive as orthogonal as they are gives chance ln(K + 1), a perfect one the limit."""
    q = torch.zeros(2, 9)
    q[:, 0] = 1
    k = torch.zeros(2, 9)
    k[:, 0], k[:, 1] = pos, 1 - pos
    queue = torch.zeros(9, 7)
    queue[2] = 1
    assert float(info_nce(q, k, queue, 0.07).loss) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_info_nce_gradient_and_refusal() -> None:
    q = _unit(3, 4, dim=1).requires_grad_()
    k, queue = _unit(3, 4, dim=1, seed=1), _unit(4, 5, dim=0)
    assert torch.autograd.gradcheck(lambda x: info_nce(x, k, queue, 0.5).loss, q)
    with pytest.raises(ValueError, match="temperature is 0"):
        info_nce(q, k, queue, 0)


def test_nt_xent_against_the_formula_written_out() -> None:
    """Equation 1 of the SimCLR paper, over rows in its order 1a 1b 2a 2b ..."""
    first, second, tau = _unit(3, 5, dim=1), _unit(3, 5, dim=1, seed=1), 0.3
    z = torch.stack([first, second], 1).flatten(0, 1)
    total, hits = 0.0, 0
    for i in range(6):
        partner = i + 1 if i % 2 == 0 else i - 1
        terms = {k: math.exp(sum(float(z[i, c] * z[k, c]) for c in range(5)) / tau) for k in range(6) if k != i}
        total -= math.log(terms[partner] / sum(terms.values()))
        hits += max(terms, key=terms.__getitem__) == partner
    result = nt_xent(first, second, tau)
    assert float(result.loss) == pytest.approx(total / 6, rel=1e-9)
    assert int((result.positive > result.hardest).sum()) == hits
    torch.testing.assert_close(result.positive, (first * second).sum(1).repeat(2))
    similarity = z @ z.T
    negative = [float(similarity[i, k]) for i in range(6) for k in range(6) if i // 2 != k // 2]
    assert float(result.negative) == pytest.approx(sum(negative) / len(negative))


def test_nt_xent_closed_forms() -> None:
    """All equal: ln(2N - 1). Orthogonal images with equal views: the positive against 2N - 2 zeros."""
    same = F.normalize(torch.ones(4, 6), dim=1)
    assert float(nt_xent(same, same, 0.1).loss) == pytest.approx(math.log(7), rel=1e-6)
    basis = torch.eye(4, 6)
    result = nt_xent(basis, basis, 0.5)
    assert float(result.loss) == pytest.approx(math.log(1 + 6 * math.exp(-2)), rel=1e-6)
    assert float(result.negative) == 0 and result.hardest.tolist() == [0] * 8
    with pytest.raises(ConfigError, match="has one image; set SOLVER.IMS_PER_BATCH"):
        nt_xent(basis[:1], basis[:1], 0.5)
    with pytest.raises(ValueError, match="temperature is 0"):
        nt_xent(basis, basis, 0)


def test_nt_xent_gradient_reaches_both_views() -> None:
    first, second = _unit(3, 4, dim=1).requires_grad_(), _unit(3, 4, dim=1, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, 0.5).loss, (first, second))


@pytest.mark.parametrize(("form", "values"), [("byol", (0, 2, 4)), ("openmixup", (-2, 0, 2)), ("half", (-0.5, 0, 0.5))])
def test_negative_cosine_closed_forms(form: str, values: tuple[float, float, float]) -> None:
    """Equal, orthogonal and opposite rows; "byol" is the squared distance of the unit vectors."""
    q = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    orthogonal = torch.tensor([[0.0, 1.0], [-0.8, 0.6]])
    for k, value in zip((q, orthogonal, -q), values, strict=True):
        assert float(negative_cosine(q, k, form)) == pytest.approx(value, abs=1e-6)
    a, b = _unit(5, 7, dim=1), _unit(5, 7, dim=1, seed=1)
    assert float(negative_cosine(a, b)) == pytest.approx(float((a - b).square().sum(1).mean()))
    with pytest.raises(ValueError, match="'cos' is unknown; expected one of byol, openmixup, half"):
        negative_cosine(q, q, "cos")


def test_cosine_is_scale_free_and_zero_where_undefined() -> None:
    a = torch.tensor([[1.0, 2.0], [1.0, 0.0], [0.0, 0.0], [1e-3, 0.0]], requires_grad=True)
    b = torch.tensor([[2.0, 4.0], [0.0, 3.0], [1.0, 1.0], [1.0, 0.0]])
    value = cosine(a, b)
    torch.testing.assert_close(value, torch.tensor([1.0, 0.0, 0.0, 1.0]))
    value.sum().backward()
    assert bool(torch.isfinite(a.grad).all()) and a.grad[2].tolist() == [0, 0]


def test_per_sample_attention_by_hand() -> None:
    cam = torch.tensor([[[1.0, 0.0]], [[1.0, 1.0]], [[0.0, 1.0]]])
    target = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]], [[1.0, 0.0]]])
    # 1 - cos: 0, 1 - 1/sqrt 2, 1; the last has no mask.
    valid = torch.tensor([1.0, 1.0, 0.0])
    assert float(cosine_attention(cam, target, valid)) == pytest.approx((1 - 1 / math.sqrt(2)) / 2)
    assert float(cosine_attention(cam, target, torch.ones(3))) == pytest.approx((2 - 1 / math.sqrt(2)) / 3)
    assert float(cosine_attention(cam, target, torch.zeros(3))) == 0


def test_batch_flat_attention_is_one_cosine_over_everything() -> None:
    cam, target = torch.rand(4, 3, 3, dtype=torch.float64), torch.rand(4, 3, 3, dtype=torch.float64)
    expected = 1 - F.cosine_similarity(cam[:3].reshape(1, -1), target[:3].reshape(1, -1))
    valid = torch.tensor([1.0, 1.0, 1.0, 0.0])
    assert float(cosine_attention(cam, target, valid, "batch_flat")) == pytest.approx(float(expected))
    assert float(cosine_attention(cam, target, torch.zeros(4), "batch_flat")) == 0
    big = cam.clone()
    big[0] *= 1000  # one large map rules the flat cosine, not the per-sample one
    one = torch.ones(4)
    assert abs(float(cosine_attention(big, target, one) - cosine_attention(cam, target, one))) < 1e-9
    assert abs(float(cosine_attention(big, target, one, "batch_flat") - expected)) > 1e-3


@pytest.mark.parametrize("reduction", ["per_sample", "batch_flat"])
def test_attention_gradient(reduction: str) -> None:
    cam = torch.rand(3, 2, 2, dtype=torch.float64, requires_grad=True)
    target, valid = torch.rand(3, 2, 2, dtype=torch.float64), torch.tensor([1.0, 0.0, 1.0])
    assert torch.autograd.gradcheck(lambda c: cosine_attention(c, target, valid, reduction), cam)
    (grad,) = torch.autograd.grad(cosine_attention(cam, target, valid, reduction), cam)
    assert float(grad[1].abs().sum()) == 0


def test_a_map_of_zeros_costs_one_and_pulls_nowhere() -> None:
    cam = torch.zeros(2, 3, 3, requires_grad=True)
    loss = cosine_attention(cam, torch.ones(2, 3, 3), torch.ones(2))
    loss.backward()
    assert float(loss.detach()) == 1 and float(cam.grad.abs().sum()) == 0


def test_unknown_reduction() -> None:
    with pytest.raises(ValueError, match="'mean' is unknown"):
        cosine_attention(torch.ones(1, 1, 1), torch.ones(1, 1, 1), torch.ones(1), "mean")
