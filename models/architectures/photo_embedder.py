"""What MobileNetV2 sees before it names a class: 1280 numbers a picture, the mean over its last feature map.

The classifier stays a part of the module, so that a whole classification checkpoint loads strictly; it is not asked.
Source: Sandler et al. 2018, arXiv:1801.04381; features of a classifier as a descriptor: Babenko et al. 2014,
arXiv:1404.1777.
"""

from __future__ import annotations

import torch
from torchvision.models import MobileNetV2


class PhotoEmbedder(MobileNetV2):
    """float32 [n, 3, h, w] -> float32 [n, 1280], not normalised."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features, averaged over the picture."""
        pooled: torch.Tensor = self.features(x).mean(dim=(2, 3))
        return pooled


def photo_embedder() -> PhotoEmbedder:
    """Without weights."""
    return PhotoEmbedder()
