"""The 128-d face embedding network of dlib as face-api runs it: a ResNet without BatchNorm, 150x150 in, 128 out.

Sources: He et al., Deep residual learning, arXiv:1512.03385; dlib's `dnn_face_recognition_ex.cpp` (the layers);
face-api 1.7.15, src/faceRecognitionNet (`residualDown`: a shortcut is average-pooled and padded with zero channels, an
output that is one pixel smaller than its shortcut is padded with zeros at the right and at the bottom). The scale and
bias a channel that follow each convolution there (what training left of a BatchNorm) are part of the convolution here.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as f

SIZE, NUMBERS = 150, 128


class _Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut; `down` halves the sides and may double the channels."""

    def __init__(self, channels: int, out: int, down: bool = False) -> None:
        super().__init__()
        self.down = down
        self.conv1 = nn.Conv2d(channels, out, 3, 2 if down else 1, 0 if down else 1)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(f.relu(self.conv1(x)))
        if self.down:
            x = f.avg_pool2d(x, 2)
            x = f.pad(x, (0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))
            y = f.pad(y, (0, x.shape[3] - y.shape[3], 0, x.shape[2] - y.shape[2]))
        return f.relu(x + y)


# Name of a block (face-api's), channels in, channels out, halves the sides.
BLOCKS: tuple[tuple[str, int, int, bool], ...] = (
    ("conv32_1", 32, 32, False),
    ("conv32_2", 32, 32, False),
    ("conv32_3", 32, 32, False),
    ("conv64_down", 32, 64, True),
    ("conv64_1", 64, 64, False),
    ("conv64_2", 64, 64, False),
    ("conv64_3", 64, 64, False),
    ("conv128_down", 64, 128, True),
    ("conv128_1", 128, 128, False),
    ("conv128_2", 128, 128, False),
    ("conv256_down", 128, 256, True),
    ("conv256_1", 256, 256, False),
    ("conv256_2", 256, 256, False),
    ("conv256_down_out", 256, 256, True),
)


class FaceResNet(nn.Module):
    """Input `[N, 3, 150, 150]` float32 RGB, mean subtracted, divided by 255; output `[N, 128]`, not normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.conv32_down = nn.Conv2d(3, 32, 7, 2)
        self.blocks = nn.ModuleDict({name: _Residual(inside, out, down) for name, inside, out, down in BLOCKS})
        self.fc = nn.Linear(256, NUMBERS, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        """The embedding of each chip."""
        x = f.max_pool2d(f.relu(self.conv32_down(image)), 3, 2)
        for block in self.blocks.values():
            x = block(x)
        embedding: Tensor = self.fc(x.mean((2, 3)))
        return embedding


def face_resnet() -> FaceResNet:
    """An untrained network; weights come from the checkpoint."""
    return FaceResNet()
