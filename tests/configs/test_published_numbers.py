"""The head of every row holds the number that the paper prints.

The tables were copied from the papers, not from the heads: a number that changes in one place alone is seen.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers.config_differences import CONFIGS, family

# CVSA paper (BMVC 2022): fine-tuning top-1 of CUB, NAbirds, Aircraft, Cars; None = the cell is not known here.
CVSA_FOUR: dict[str, tuple[float | None, ...]] = {
    # Table 1, second stage alone.
    "scratch_simclr_R50": (None, None, 72.42, None),
    "scratch_moco_v2_R50": (None, None, 71.93, None),
    "scratch_byol_R50": (64.85, 72.54, 72.60, 75.87),
    "scratch_byol_dilo_R50": (66.16, 73.12, 73.52, 76.36),
    "scratch_byol_cvsa_R50": (66.88, 73.75, 74.55, 77.45),
    # Table 2, first stage on COCO.
    "coco_simclr_R50": (68.30, 73.51, 81.18, 85.93),
    "coco_moco_v2_R50": (68.47, 73.73, 81.78, 86.08),
    "coco_byol_R50": (68.55, 76.29, 81.73, 86.36),
    "coco_then_moco_v2_R50": (67.60, 73.18, 81.04, 85.71),
    "coco_then_byol_R50": (68.01, 75.82, 80.53, 85.49),
    "coco_then_byol_dilo_R50": (None, None, None, 86.46),
    "coco_then_byol_cvsa_R50": (69.14, 77.57, None, 87.13),  # the first two of a public leaderboard
    # Table 3, first stage on ImageNet-1k.
    "in1k_simclr_R50": (73.99, 76.30, 85.96, 88.16),
    "in1k_moco_v2_R50": (73.19, 75.64, 85.49, 87.51),
    "in1k_byol_R50": (76.63, 78.89, 87.19, 89.59),
    "in1k_then_moco_v2_R50": (71.77, 73.96, 83.25, 86.88),
    "in1k_then_byol_R50": (72.46, 76.12, 84.58, 87.08),
    "in1k_then_byol_dilo_R50": (76.60, 79.04, 87.03, 89.26),
    "in1k_then_byol_cvsa_R50": (77.10, 79.64, 87.27, 89.76),
}
# Table 4: linear classification on iNaturalist 2018.
CVSA_INAT = {
    "inat_moco_v2_R50": 41.8,
    "inat_byol_R50": 44.6,
    "inat_byol_dilo_R50": 44.3,
    "inat_byol_cvsa_R50": 45.4,
    "in1k_then_moco_v2_inat_R50": 45.0,
    "in1k_then_byol_inat_R50": 46.9,
    "in1k_then_byol_dilo_inat_R50": 47.0,
    "in1k_then_byol_cvsa_inat_R50": 47.5,
}
# Table 5: CUB, Aircraft, Cars of the rows that no other table has, and what the heads quote beside another table's.
CVSA_THREE = {"in1k_byol_cvsa_R50": (75.9, 86.8, 89.2), "inat_then_byol_cvsa_R50": (77.0, 81.2, 86.5)}
CVSA_BESIDE = {
    "coco_then_byol_cvsa_R50": (68.9, 82.3, 86.7),
    "in1k_then_byol_cvsa_R50": (76.5, 87.3, 89.7),
    "inat_byol_R50": (77.2, 80.4, 85.8),
}
# Table 6: ResNet-18 on CUB; backgrounds -> DiLo, SaliencySwap, SaliencySwap and alignment.
CVSA_BACKGROUNDS = {
    "cub": (64.14, 64.35, 65.02),
    "coco": (60.07, 60.42, 61.23),
    "nabirds": (62.51, 63.06, 64.80),
    "cub_coco": (61.26, 61.49, 62.01),
    "cub_nabirds": (64.28, 64.23, 65.50),
}
# DiLo paper (arXiv 2004.06638v1), tables 1 to 4: ImageNet linear top-1.
DILO = {
    "augment_center_R50": 5.8,
    "augment_flip_R50": 7.3,
    "augment_spatial_R50": 24.7,
    "augment_scale_R50": 36.8,
    "augment_jitter_R50": 51.7,
    "instdisc_R50": 56.5,
    "dilo_gs_R50": 57.8,
    "dilo_mc_R50": 58.1,
    "dilo_rbd_R50": 59.3,
    "dilo_basnet_R50": 62.9,
    "dilo_p20_R50": 59.3,
    "dilo_p80_R50": 57.5,
    "dilo_p100_R50": 44.5,
    "dilo_texture_R50": 57.1,
    "dilo_windows_R50": 59.2,
    "dilo_gauss_R50": 58.9,
    "dilo_mix_R50": 59.3,
    "instdisc_alexnet": 42.2,
    "dilo_rbd_alexnet": 45.1,
    "dilo_basnet_alexnet": 47.5,
    "instdisc_vgg16": 48.7,
    "dilo_rbd_vgg16": 51.5,
    "dilo_basnet_vgg16": 54.5,
    "instdisc_R18": 45.9,
    "dilo_rbd_R18": 48.8,
    "dilo_basnet_R18": 52.3,
    "dilo_k65536_R50": 60.6,
    "dilo_k65536_R50w2": 65.3,
    "feature_mask_R50": 37.5,  # 56.5 - 19
}
# CAST paper, tables 1 and 2: VOC07 SVM mAP, ImageNet linear, then VOC detection AP, AP50, AP75, COCO box and mask AP.
CAST: dict[str, tuple[float, ...]] = {
    "moco_coco_R50": (66.9, 46.5, 47.5, 75.4, 51.5, 38.3, 34.9),
    "crop_coco_R50": (69.3, 46.0, 49.0, 77.4, 52.4, 38.3, 34.8),
    "cast_coco_R50": (73.1, 48.7, 54.2, 80.1, 59.9, 39.4, 35.8),
    "cast_official_coco_R50": (73.1, 48.7, 54.2, 80.1, 59.9),
    "cast_phi0_coco_R50": (72.3, 47.4),
    "cast_mlp_coco_R50": (72.8, 50.1),
    "cast_intersection_coco_R50": (72.0, 49.4, 53.3, 79.7, 59.0),
}
CAST_WORDS = ("VOC07 SVM mAP", "ImageNet linear", "VOC detection AP", "AP50", "AP75", "COCO box AP", "mask AP")
# Rows whose number is not in a table: what stands in their heads instead.
UNTABLED = {
    "cast/cast_lambda1_coco_R50": "between lambda 0 (VOC07 69.3, ImageNet 46.0) and lambda 3 (73.1, 48.7).",
    "cast/cast_lambda5_coco_R50": "between lambda 0 (VOC07 69.3, ImageNet 46.0) and lambda 3 (73.1, 48.7).",
    "dilo/dilo_official_moco_v1_R50": "not known here. ",
    "dilo/dilo_official_moco_v2_R50": "not known here. ",
}
BASELINES = {
    "instdisc_R18": "weighted kNN top-1 41.0",
    "instdisc_R50": "weighted kNN top-1 46.8",
    "instdisc_softmax_R50": "ImageNet linear top-1 56.5",
    "moco_v1_R50": "ImageNet linear top-1 60.8 +- .2; VOC07+12 detection (C4, 24k) AP 55.9, AP50 81.5, AP75 62.6.",
    "moco_v2_R50": "ImageNet linear top-1 67.5 +- .1; VOC07+12 detection (C4, 24k) AP 57.0, AP50 82.4, AP75 63.6.",
    "moco_v1_R50w2": "ImageNet linear top-1 65.4.",
    "simclr_R50": "ImageNet linear top-1 69.3.",
    "byol_R50": "ImageNet linear top-1 74.3.",
    "byol_300ep_R50": "ImageNet linear top-1 72.5.",
}


def _cells(names: tuple[str, ...], values: tuple[float | None, ...], digits: int) -> str:
    cells = [f"{n} {'-' if v is None else f'{v:.{digits}f}'}" for n, v in zip(names, values, strict=True)]
    return f"top-1 {', '.join(cells)}."


def _expected() -> dict[str, str]:
    """Row -> how the sentence after "Expected:" starts."""
    four, three = ("CUB", "NAbirds", "Aircraft", "Cars"), ("CUB", "Aircraft", "Cars")
    found = {f"cvsa/{name}": _cells(four, row, 2) for name, row in CVSA_FOUR.items()}
    found |= {f"cvsa/{name}": _cells(three, row, 1) for name, row in CVSA_THREE.items()}
    found |= {f"cvsa/{name}": f"top-1 iNat2018 {value:.1f}." for name, value in CVSA_INAT.items()}
    for sets, row in CVSA_BACKGROUNDS.items():
        for part, value in zip(("dilo", "ss", "ss_align"), row, strict=True):
            found[f"cvsa/background_{sets}_{part}_R18"] = f"top-1 CUB {value:.2f}."
    about = {"feature_mask_R50": "about "}
    found |= {f"dilo/{name}": f"ImageNet linear top-1 {about.get(name, '')}{v:.1f}" for name, v in DILO.items()}
    found |= {f"baselines/{name}": words for name, words in BASELINES.items()}
    return found | UNTABLED


def _text(row: str) -> str:
    """The head of a row's file, as one line."""
    lines = (CONFIGS / f"{row}.yaml").read_text().split("_BASE_:")[0].splitlines()
    return " ".join(line.lstrip("# ") for line in lines)


@pytest.mark.parametrize(("row", "words"), _expected().items(), ids=_expected())
def test_the_head_says_what_the_paper_prints(row: str, words: str) -> None:
    after = _text(row).split("Expected: ")[1]
    assert after.startswith(words) and not after[len(words) :][:1].isdigit()


@pytest.mark.parametrize("name", CAST)
def test_cast(name: str) -> None:
    """Several metrics in one sentence: the sentence has exactly these words and numbers, in this order."""
    after = re.split(r"[.(;] ?(?:\(the same row|grounding|Protocol)|\. ", _text(f"cast/{name}").split("Expected: ")[1])[
        0
    ]
    pairs = re.findall(r"([A-Z][^,;.]*?|mask AP) (\d\d\.\d)", after)
    assert pairs == list(zip(CAST_WORDS, map(str, CAST[name]), strict=False)), after


@pytest.mark.parametrize("name", CVSA_BESIDE)
def test_table_5_beside_another_table(name: str) -> None:
    cub, aircraft, cars = CVSA_BESIDE[name]
    words = {f"{cub}, {aircraft} (Aircraft) and {cars} (Cars)", f"CUB {cub}, Aircraft {aircraft}, Cars {cars}"}
    assert any(one in _text(f"cvsa/{name}") for one in words)


def test_every_row_has_its_number() -> None:
    rows = {
        f"{path.parent.name}/{path.stem}" for name in ("baselines", "cast", "cvsa", "dilo") for path in family(name)
    }
    known = set(_expected()) | {f"cast/{name}" for name in CAST}
    assert {row for row in rows if not Path(row).name.startswith("Base")} == known
