"""Class activation maps of a classifier with global average pooling (Zhou et al., CVPR 2016)."""

from __future__ import annotations

import numpy as np

from ssl_loc.saliency.build import SALIENCY_REGISTRY
from ssl_loc.saliency.class_specific import ClassSpecific


@SALIENCY_REGISTRY.register(name="cam")
class CAM(ClassSpecific):
    """Where a classifier sees its class: ReLU of the weighted sum of its last maps, over its maximum (uses labels)."""

    name = "cam"

    def of_class(self, image: np.ndarray) -> np.ndarray:
        import torch

        from ssl_loc.saliency.classifier import choose_class, prepare_image, resize_map

        network = self.network()
        with torch.no_grad():
            maps = network.maps(prepare_image(image, self.side))[0]
            chosen = choose_class(network.fc(maps.mean((1, 2))), self.target)
            evidence = torch.einsum("c,chw->hw", network.fc.weight[chosen], maps).relu()
        top = float(evidence.max())
        # Nothing speaks for the class: no place does.
        if top <= 0:
            return np.zeros(image.shape[:2], dtype=np.float32)
        return resize_map(evidence / top, (image.shape[0], image.shape[1]))
