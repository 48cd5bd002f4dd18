"""A look at a detection dataset on disk that says all at once what is missing where, and what to do about it."""

from __future__ import annotations

from ssl_loc.transfer.datasets import parse_name
from ssl_loc.transfer.layout_coco import check_coco
from ssl_loc.transfer.layout_report import LayoutReport
from ssl_loc.transfer.layout_voc import check_voc

# Image headers that are compared with the annotations, evenly spread over the set.
SIZES = 500


def check_layout(name: str, masks: bool = False, sizes: int | None = SIZES) -> LayoutReport:
    """Look at one dataset without loading it.

    Args:
        name: catalog name or path form, as in DATASETS.TRAIN (see :mod:`ssl_loc.transfer.datasets`).
        masks: whether every object needs a mask (MODEL.MASK_ON).
        sizes: how many image headers to compare with the annotations; None compares all.

    Returns:
        The report; its ``problems`` name every missing folder and file with the path that is expected and the archive
        that holds it, images and annotations that do not belong together, boxes and classes that cannot be right.

    Raises:
        ConfigError: the name is no detection dataset's.
    """
    where = parse_name(name)
    report = LayoutReport(name, where.kind, str(where.root))
    if where.kind == "voc":
        check_voc(report, where.root, where.year, where.split, sizes)
        if masks:
            report.problem(
                "MODEL.MASK_ON needs a mask for every object, and VOC's annotations hold boxes only; use a COCO-style "
                "dataset, or set MODEL.MASK_ON False"
            )
    else:
        check_coco(report, where.root, where.split, masks, sizes)
    return report
