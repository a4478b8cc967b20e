"""Tiny-YOLOv2 with separable convolutions, as the face detector of face-api builds it.

Sources: Redmon and Farhadi, YOLO9000, arXiv:1612.08242 (grid, anchors, box coding); face-api 1.7.15,
src/tinyYolov2/TinyYolov2Base.ts (`runMobilenet`: the first convolution is unpadded, pooling is TensorFlow's SAME, no
BatchNorm, leaky ReLU 0.1).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

ANCHORS = ((1.603231, 2.094468), (6.041143, 7.080126), (2.882459, 3.518061), (4.266906, 5.178857), (9.041765, 10.66308))
_WIDTHS = (16, 32, 64, 128, 256, 512)


class _Separable(nn.Sequential):
    """Depthwise 3x3 without bias, pointwise 1x1 with one, leaky ReLU."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.add_module("depthwise", nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False))
        self.add_module("pointwise", nn.Conv2d(channels, out, 1))
        self.add_module("leaky", nn.LeakyReLU(0.1))


class TinyYoloV2(nn.Module):
    """Input `[N, 3, size, size]` float32 RGB, mean subtracted, divided by 255.

    Outputs: boxes `[N, cells * anchors, 4]` xyxy in 0..1 of the input plane (neither clipped nor thinned out), scores
    `[N, cells * anchors, 1]` in 0..1; cells row by row, all anchors of a cell together.
    """

    def __init__(self, size: int, anchors: Sequence[Sequence[float]]) -> None:
        super().__init__()
        if size % 32 or size <= 0:
            raise ValueError(f"size: expected a positive multiple of 32, got {size}")
        self.size = size
        self.first = nn.Sequential(nn.Conv2d(3, _WIDTHS[0], 3), nn.LeakyReLU(0.1))
        self.separable = nn.ModuleList(_Separable(width, out) for width, out in itertools.pairwise(_WIDTHS))
        # SAME: an odd side is padded after by what can never be the maximum, which is what ceil_mode does.
        self.pool = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.last_pool = nn.MaxPool2d(2, 1, padding=1)
        self.head = nn.Conv2d(_WIDTHS[-1], 5 * len(anchors), 1)
        grid = size // 32
        across = torch.arange(grid, dtype=torch.float32)
        cells = torch.stack([across.repeat(grid), across.repeat_interleave(grid)], 1)
        self.grid, self.per_cell = grid, len(anchors)
        self.register_buffer("cells", cells.repeat_interleave(len(anchors), 0), persistent=False)
        self.register_buffer("anchors", torch.tensor(anchors).repeat(grid * grid, 1), persistent=False)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes and scores of a batch."""
        if not torch._C._get_tracing_state() and image.shape[-2:] != (self.size, self.size):
            raise ValueError(f"image: expected [N, 3, {self.size}, {self.size}], got {list(image.shape)}")
        codes = self.codes(image).permute(0, 2, 3, 1).reshape(-1, self.grid * self.grid * self.per_cell, 5)
        centre = (codes[..., 0:2].sigmoid() + self.get_buffer("cells")) / self.grid
        half = codes[..., 2:4].exp() * self.get_buffer("anchors") / (2 * self.grid)
        return torch.cat([centre - half, centre + half], -1), codes[..., 4:5].sigmoid()

    def codes(self, image: Tensor) -> Tensor:
        """The raw output `[N, anchors * 5, grid, grid]`: x, y, w, h and objectness of each anchor."""
        x = self.pool(self.first(image))
        last = len(self.separable) - 1
        for number, layer in enumerate(self.separable):
            x = layer(x)
            # SAME at stride 1 pads after only: the windows that start before the first pixel are dropped.
            x = self.pool(x) if number < last else self.last_pool(x)[..., 1:, 1:]
        codes: Tensor = self.head(x)
        return codes


def tiny_yolo_v2(size: int = 416, anchors: Sequence[Sequence[float]] = ANCHORS) -> TinyYoloV2:
    """An untrained network; weights come from the checkpoint."""
    return TinyYoloV2(size, anchors)
