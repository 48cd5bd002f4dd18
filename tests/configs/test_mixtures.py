"""The quick yamls of mixtures are what their names say: the parts of two methods and nothing else."""

from __future__ import annotations

from helpers.config_differences import differences


def _changes(base: str, other: str) -> dict:
    found = differences(f"quick/{base}.yaml", f"quick/{other}.yaml")
    found.pop("OUTPUT_DIR")
    return found


def test_cast_x_dilo_is_cast_with_the_paste_of_dilo() -> None:
    """All that may differ beside the views is how much the attention weighs."""
    views, weight = "AUGMENT.VIEWS", "LOSS.GRAD_CAM_ATTENTION.WEIGHT"
    changes = _changes("cast", "cast_dilo")
    assert (
        changes.pop(views)
        == [["CopyPaste", "SaliencyConstrainedCrop", "ColorJitter", "RandomGrayscale", "RandomFlip"]] * 2
    )
    assert set(changes) <= {weight}
    # As in the published rows, CAST drops photos without an object, and DiLo keeps them as they are.
    assert set(_changes("dilo", "cast_dilo")) - {views, weight} == {"LOSS.NAMES", "DATA.MASKS.EMPTY"}


def test_cast_on_byol_is_byol_with_the_plugs_of_cast() -> None:
    plugs = _changes("moco", "cast")
    assert plugs.pop("LOSS.NAMES") == ["InfoNCE", "GradCAMAttention"]
    assert _changes("byol", "cast_byol") == {**plugs, "LOSS.NAMES": ["NegativeCosine", "GradCAMAttention"]}


def test_cvsa_on_moco_is_its_view_generator_with_the_alignment_of_cvsa() -> None:
    plugs = _changes("byol_ss", "cvsa")
    assert plugs.pop("LOSS.NAMES") == ["NegativeCosine", "CrossViewAlignment"]
    # The scale of BYOL's own loss beside the alignment.
    assert plugs.pop("LOSS.NEGATIVE_COSINE.FORM") == "half"
    assert _changes("moco_ss", "moco_cvsa") == {**plugs, "LOSS.NAMES": ["InfoNCE", "CrossViewAlignment"]}
