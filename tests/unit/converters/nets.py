"""Small networks for the converter tests, importable as a spec's factory."""

from __future__ import annotations

import torch
from torch import nn


class Tiny(nn.Module):
    """Conv, BatchNorm, ReLU, Dropout, head: 1x8x8 -> 10."""

    def __init__(self, width: int = 4, dropout: float = 0.5) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, padding=1)
        self.bn = nn.BatchNorm2d(width)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, 1, 8, 8] -> [n, 10]."""
        x = torch.relu(self.bn(self.conv(x)))
        return self.head(self.drop(x.mean((2, 3))))


class AlwaysDrops(Tiny):
    """A functional dropout that no eval() reaches."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(super().forward(x), 0.5, training=True)


class StubbornBatchNorm(nn.BatchNorm2d):
    """Stays in train mode, as code that 'fine-tunes the statistics' leaves it."""

    def train(self, mode: bool = True) -> StubbornBatchNorm:
        super().train(True)
        return self


def tiny(width: int = 4, dropout: float = 0.5) -> nn.Module:
    """The trained-looking network: running statistics away from their start."""
    net = Tiny(width, dropout)
    net.bn.running_mean += torch.linspace(-1, 1, width)
    net.bn.running_var *= 2
    return net


def stubborn() -> nn.Module:
    """BatchNorm in train mode although the model is in evaluation mode."""
    net = Tiny()
    net.bn = StubbornBatchNorm(4)
    return net


def batch_statistics() -> nn.Module:
    """A BatchNorm without running statistics: it normalises by the batch it is served with."""
    net = Tiny()
    net.bn = nn.BatchNorm2d(4, track_running_stats=False)
    return net


def always_drops() -> nn.Module:
    """Dropout that eval() does not switch off."""
    return AlwaysDrops()


def not_a_module() -> str:
    """What a factory must not give."""
    return "tiny"
