"""Which digits are in a scene: a logit a class, the strongest place of a class's map (multi-instance learning)."""

from __future__ import annotations

from torch import Tensor, nn


class DigitsMulti(nn.Module):
    """Input `[N, 1, 96, 96]` float32 in 0..1; output logits `[N, classes]`, each for a sigmoid of its own.

    The maximum over the map is trained by what is in the picture alone, without boxes (Oquab et al. 2015, "Is object
    localization for free?").
    """

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_block(1, width, stride=2), *_block(width, 2 * width), nn.MaxPool2d(2), *_block(2 * width, 3 * width),
            *_block(3 * width, 3 * width), nn.MaxPool2d(2), *_block(3 * width, 4 * width),
        )  # fmt: skip
        self.head = nn.Conv2d(4 * width, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of a batch of scenes."""
        strongest: Tensor = self.head(self.features(image)).amax(dim=(2, 3))
        return strongest


def _block(channels: int, out: int, stride: int = 1) -> tuple[nn.Module, ...]:
    return nn.Conv2d(channels, out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)


def digits_multi(classes: int = 10, width: int = 12) -> DigitsMulti:
    """An untrained network; weights come from the checkpoint."""
    return DigitsMulti(classes, width)
