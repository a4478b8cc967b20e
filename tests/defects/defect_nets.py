"""Two small networks with weights made by hand: a classifier of colours and a detector of red and blue spots.

The classifier has BatchNorm, Dropout and activations beyond the range of half precision (they are kept in FP32 by the
converter's guard). Copied beside the specs, so that the converter's child finds it as a user's own module.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Colours(nn.Module):
    """Input [N, 3, 48, 64] normalised RGB, output logits [N, 4]: red, green, blue, yellow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, 2, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        answer: Tensor = self.head(self.dropout(x.mean((2, 3))))
        return answer


class BatchNormStaysInTrainMode(Colours):
    """The mistake of a training loop: BatchNorm is put back into train mode."""

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        self.bn2.train()
        return self


class DropoutStaysActive(Colours):
    """Monte-Carlo dropout left on: nn.functional.dropout without `training=self.training`."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        answer: Tensor = self.head(nn.functional.dropout(x.mean((2, 3)), 0.5))
        return answer


class Spots(nn.Module):
    """Input [N, 3, 64, 64] RGB 0..255; boxes [N, 64, 4] xyxy in input pixels, scores [N, 64, 2]: red, blue."""

    grid: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.spot = nn.Conv2d(3, 2, 8, 8)
        self.shift = nn.Conv2d(3, 4, 8, 8)
        self.register_buffer("grid", torch.zeros(64, 4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = torch.sigmoid(self.spot(x)).flatten(2).transpose(1, 2)
        boxes = self.grid + torch.tanh(self.shift(x)).flatten(2).transpose(1, 2)
        return boxes, scores


def colours() -> Colours:
    """As trained."""
    return Colours()


def colours_batchnorm_in_train_mode() -> Colours:
    """See the class."""
    return BatchNormStaysInTrainMode()


def colours_dropout_active() -> Colours:
    """See the class."""
    return DropoutStaysActive()


def spots() -> Spots:
    """As trained."""
    return Spots()
