"""Annotated sizes against the headers of the image files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ssl_loc.transfer.layout_report import LayoutReport, counted, spread

# EXIF tag "Orientation"; values from 5 on swap width and height.
_ORIENTATION, _FIRST_TURNED = 0x0112, 5


def compare_sizes(report: LayoutReport, images: Sequence[tuple[Path, tuple[int, int]]], limit: int | None) -> None:
    """Read up to ``limit`` headers, evenly spread (None: all), and compare with the annotated (width, height)."""
    from ssl_loc.saliency.map_io import PIL_ERRORS

    wrong: list[str] = []
    turned: list[str] = []
    broken: list[str] = []
    chosen = spread(len(images), limit)
    for position in chosen:
        path, annotated = images[position]
        try:
            stored, shown = header_sizes(path)
        except PIL_ERRORS:
            broken.append(path.name)
            continue
        text = f"{path.name} {shown[0]}x{shown[1]}, annotated {annotated[0]}x{annotated[1]}"
        if shown != annotated:
            # Engines turn images as their EXIF says, and refuse what then differs from the annotation.
            (turned if stored == annotated else wrong).append(text)
    report.sizes_read = len(chosen)
    of = f"of {len(chosen)} looked at"
    if broken:
        report.problem(f"{of}, image files that cannot be opened: {counted(broken)}")
    if wrong:
        report.problem(f"{of}, images of another size than their annotation says: {counted(wrong)}")
    if turned:
        report.problem(
            f"{of}, images whose EXIF orientation turns them away from their annotation; remove the tag (for example "
            f"exiftool -Orientation= FILE): {counted(turned)}"
        )


def header_sizes(path: Path) -> tuple[tuple[int, int], tuple[int, int]]:
    """(width, height) of the stored pixels, and after turning as the EXIF tag says. Reads no pixel."""
    from PIL import Image

    with Image.open(path) as image:
        size = (image.width, image.height)
        # PIL would decode a whole PNG in search of a tag that is hardly ever there.
        tagged = image.format != "PNG" or "exif" in image.info
        turned = tagged and image.getexif().get(_ORIENTATION, 1) >= _FIRST_TURNED
    return size, size[::-1] if turned else size
