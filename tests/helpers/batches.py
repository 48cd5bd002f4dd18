"""Small random batches."""

from __future__ import annotations

import torch

from ssl_loc.structures import Geometry, GeometryBatch, Views


def random_views(n: int, size: int = 32, seed: int = 0, masks: bool = True, num_views: int = 2) -> Views:
    """n images x num_views: noise with a bright rectangle, which is the mask; boxes overlap partly."""
    g = torch.Generator().manual_seed(seed)
    images, all_masks = [], []
    for _ in range(num_views):
        image = torch.randint(0, 128, (n, 3, size, size), generator=g, dtype=torch.uint8)
        mask = torch.zeros(n, 1, size, size, dtype=torch.uint8)
        for i in range(n):
            x, y = torch.randint(0, size // 2, (2,), generator=g).tolist()
            mask[i, :, y : y + size // 2, x : x + size // 3] = 255
        images.append(image + (mask // 2))
        all_masks.append(mask)
    rows = []
    for _ in range(n):
        corners = torch.randint(0, 30, (num_views, 2), generator=g).tolist()
        flips = torch.randint(0, 2, (num_views,), generator=g).tolist()
        rows.append(
            [
                Geometry((float(x), float(y), float(x + 60), float(y + 50)), (size, size), (100, 100), bool(flip))
                for (x, y), flip in zip(corners, flips, strict=True)
            ]
        )
    return Views(
        images=images,
        masks=all_masks if masks else None,
        has_mask=torch.full((n, num_views), masks),
        geometry=GeometryBatch.stack(rows),
        index=torch.arange(n),
        label=torch.full((n,), -1),
    )
