"""A small convolutional classifier with BatchNorm and Dropout, as a reader's own network might look."""

from __future__ import annotations

from torch import Tensor, nn


class DigitsNet(nn.Module):
    """Input `[N, 1, 32, 32]` float32 in 0..1, output logits `[N, classes]`."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_block(1, width, stride=2),
            *_block(width, 2 * width),
            nn.MaxPool2d(2),
            *_block(2 * width, 4 * width),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(4 * width, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of a batch of pictures."""
        features = self.pool(self.features(image)).flatten(1)
        logits: Tensor = self.head(self.dropout(features))
        return logits


def _block(channels: int, out: int, stride: int = 1) -> tuple[nn.Module, ...]:
    return nn.Conv2d(channels, out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)


def digits_net(classes: int = 10, width: int = 16) -> DigitsNet:
    """An untrained network; weights come from the checkpoint."""
    return DigitsNet(classes, width)
