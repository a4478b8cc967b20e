"""A small anchor-free detector whose output is laid out as YOLOv8 exports it: [4 + classes, cells]."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from models.architectures.digits_net import _block

STRIDE = 8


class DigitYolo(nn.Module):
    """Input `[N, 1, side, side]` float32 in 0..1; output `[N, 4 + classes, (side / 8)^2]`.

    Of every cell: cx, cy, w, h in pixels of the input plane, and a score a class (sigmoid). A cell predicts the
    distances to the four sides of its digit, in strides, through exp (FCOS, Tian et al. 2019).
    """

    def __init__(self, classes: int, width: int, side: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            *_block(1, width, stride=2),
            *_block(width, 2 * width, stride=2),
            *_block(2 * width, 4 * width, stride=2),
            *_block(4 * width, 4 * width),
            *_block(4 * width, 4 * width),
        )
        self.sides = nn.Conv2d(4 * width, 4, 1)
        self.scores = nn.Conv2d(4 * width, classes, 1)
        nn.init.constant_(cast(Tensor, self.scores.bias), -4.0)  # few cells hold a digit
        middle = (torch.arange(side // STRIDE) + 0.5) * STRIDE
        rows, columns = torch.meshgrid(middle, middle, indexing="ij")
        self.register_buffer("centres", torch.stack([columns, rows]).flatten(1), persistent=False)

    def raw(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """For training: xyxy `[N, 4, cells]` in pixels, and logits `[N, classes, cells]`."""
        features = self.trunk(image)
        left, top, right, bottom = (self.sides(features).flatten(2).clamp(-4, 3).exp() * STRIDE).unbind(1)
        x, y = cast(Tensor, self.centres)
        return torch.stack([x - left, y - top, x + right, y + bottom], 1), self.scores(features).flatten(2)

    def forward(self, image: Tensor) -> Tensor:
        """The layout of YOLOv8."""
        xyxy, logits = self.raw(image)
        start, end = xyxy[:, :2], xyxy[:, 2:]
        return torch.cat([(start + end) / 2, end - start, logits.sigmoid()], 1)


def digit_yolo(classes: int = 10, width: int = 12, side: int = 96) -> DigitYolo:
    """An untrained network; weights come from the checkpoint."""
    return DigitYolo(classes, width, side)
