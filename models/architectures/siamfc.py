"""The embedding of SiamFC (Bertinetto et al. 2016), smaller: one map of features for a search crop.

No layer is padded, so the middle of the map of a search crop is the map of the template crop around the same place,
number by number: the tracker needs one graph of one size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SEARCH, TEMPLATE, STRIDE = 127, 63, 4
FEATURES = 64


class SiamFc(nn.Module):
    """Input `[N, 3, 127, 127]` float32, normalised; output `[N, 64, 24, 24]`, of every cell a vector of length 1.

    A cell whose features are all but nothing keeps a short vector, so that noise on a flat wall matches nothing.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            *_block(3, width, 5, stride=2),
            *_block(width, 2 * width, 3, stride=2),
            *_block(2 * width, 3 * width, 3),
            *_block(3 * width, 3 * width, 3),
            nn.Conv2d(3 * width, FEATURES, 3),
        )

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        found: Tensor = self.trunk(image)
        return found * torch.rsqrt(found.square().sum(1, keepdim=True) + 1.0)


def _block(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def siamfc(width: int = 24) -> SiamFc:
    """An untrained network; weights come from the checkpoint."""
    return SiamFc(width)
