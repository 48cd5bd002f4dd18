"""The batch: shapes, missing masks, what augmenters recorded."""

import pytest
import torch

from ssl_loc.data.collate import collate
from ssl_loc.data.mapper import MappedImage
from ssl_loc.structures import Geometry, View
from ssl_loc.utils.errors import ConfigError


def view(value, size=(4, 6), mask=None, flip=False, **extra):
    geometry = Geometry((value, 0.0, value + 3.0, 2.0), size, (9, 11), flip=flip, constraint_met=not flip)
    # Channels-last memory, as views come from the resize.
    image = torch.full((*size, 3), value, dtype=torch.uint8).permute(2, 0, 1)
    return View(image, None if mask is None else torch.full((1, *size), mask, dtype=torch.uint8), geometry, extra)


def image(index, *views, passed_over=0):
    return MappedImage(index, index % 2, f"{index}.jpg", list(views), passed_over)


def test_values_by_hand():
    batch = collate(
        [
            image(7, view(1, mask=255), view(2, size=(2, 2), flip=True), passed_over=3),
            image(4, view(3), view(4, size=(2, 2))),
        ]
    )
    assert [tuple(x.shape) for x in batch.images] == [(2, 3, 4, 6), (2, 3, 2, 2)]
    assert batch.images[0][:, 0, 0, 0].tolist() == [1, 3]
    assert batch.images[1][:, 2, 1, 1].tolist() == [2, 4]
    assert batch.has_mask.tolist() == [[True, False], [False, False]]
    assert batch.masks[0].flatten(1).float().mean(1).tolist() == [255, 0]
    assert batch.masks[1].max() == 0
    assert batch.geometry.boxes[0, 1].tolist() == [2, 0, 5, 2]
    assert batch.geometry.flips.tolist() == [[False, True], [False, False]]
    assert batch.geometry.met.tolist() == [[True, False], [True, True]]
    assert batch.geometry.source.tolist() == [[9, 11], [9, 11]]
    assert (batch.index.tolist(), batch.label.tolist(), batch.paths) == ([7, 4], [1, 0], ["7.jpg", "4.jpg"])
    assert batch.extra["passed_over"].tolist() == [3, 0]


def test_sizes_that_differ_within_a_view_are_a_missing_crop():
    first, second = image(0, view(1), view(1)), image(1, view(2), view(2, size=(5, 6)))
    with pytest.raises(ConfigError) as error:
        collate([first, second])
    assert str(error.value) == (
        "AUGMENT.VIEWS[1] gives views of different sizes in one batch (6 x 4 and 6 x 5 px): a crop is missing; put "
        "RandomResizedCrop or SaliencyConstrainedCrop first"
    )


def test_no_mask_at_all_is_none():
    assert collate([image(0, view(1)), image(1, view(2))]).masks is None


def test_extra_is_stacked_by_name():
    batch = collate(
        [
            image(0, view(1, angle=0.5, matrix=torch.eye(2)), view(2, angle=1.0, matrix=torch.eye(2), paste=True)),
            image(1, view(1, angle=2.0, matrix=torch.eye(2)), view(2, angle=3.0, matrix=torch.eye(2), paste=False)),
        ]
    )
    assert batch.extra["angle"].tolist() == [[0.5, 1.0], [2.0, 3.0]]
    assert batch.extra["angle"].dtype == torch.float32
    assert batch.extra["matrix"].shape == (2, 2, 2, 2)
    assert batch.extra["paste.1"].tolist() == [True, False]  # only the second view has it
    assert set(batch.extra) == {"angle", "matrix", "paste.1", "passed_over"}


def test_images_that_recorded_different_things_are_refused():
    with pytest.raises(ValueError, match="differ in what they recorded"):
        collate([image(0, view(1, angle=0.5)), image(1, view(1))])
