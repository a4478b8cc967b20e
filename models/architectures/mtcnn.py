"""The three networks of MTCNN: proposal, refinement and output network, with the layers and names of facenet-pytorch.

Source: Zhang, Zhang, Li, Qiao, Joint Face Detection and Alignment using Multitask Cascaded Convolutional Networks,
arXiv:1604.02878. The weights come from Matlab, whose arrays run down the columns: before the first dense layer a map is
laid out by x, then y, then channel. All take RGB in levels 0..255 and scale it themselves.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as f


def _scaled(levels: Tensor) -> Tensor:
    return (levels - 127.5) * 0.0078125


def _pooled(x: Tensor, kernel: int) -> Tensor:
    return f.max_pool2d(x, kernel, 2, ceil_mode=True)


def _flat(x: Tensor) -> Tensor:
    return x.permute(0, 3, 2, 1).flatten(1)


def _probability(logits: Tensor) -> Tensor:
    """Of a face; the other one is that of none."""
    return torch.softmax(logits, 1)[:, 1:]


class ProposalNet(nn.Module):
    """Input `[N, 3, H, W]`; outputs probability `[N, 1, h, w]` and regression `[N, 4, h, w]`, one cell a window.

    regression: how far the sides x1, y1, x2, y2 of the face are from those of the window, in parts of its side.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 10, 3), nn.PReLU(10)
        self.conv2, self.prelu2 = nn.Conv2d(10, 16, 3), nn.PReLU(16)
        self.conv3, self.prelu3 = nn.Conv2d(16, 32, 3), nn.PReLU(32)
        self.conv4_1, self.conv4_2 = nn.Conv2d(32, 2, 1), nn.Conv2d(32, 4, 1)

    def forward(self, plane: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        x = _pooled(self.prelu1(self.conv1(_scaled(plane))), 2)
        x = self.prelu3(self.conv3(self.prelu2(self.conv2(x))))
        return _probability(self.conv4_1(x)), self.conv4_2(x)


class RefinementNet(nn.Module):
    """Input `[N, 3, 24, 24]`; outputs probability `[N, 1]` and regression `[N, 4]`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 28, 3), nn.PReLU(28)
        self.conv2, self.prelu2 = nn.Conv2d(28, 48, 3), nn.PReLU(48)
        self.conv3, self.prelu3 = nn.Conv2d(48, 64, 2), nn.PReLU(64)
        self.dense4, self.prelu4 = nn.Linear(576, 128), nn.PReLU(128)
        self.dense5_1, self.dense5_2 = nn.Linear(128, 2), nn.Linear(128, 4)

    def forward(self, crop: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        x = _pooled(self.prelu1(self.conv1(_scaled(crop))), 3)
        x = _pooled(self.prelu2(self.conv2(x)), 3)
        x = self.prelu4(self.dense4(_flat(self.prelu3(self.conv3(x)))))
        return _probability(self.dense5_1(x)), self.dense5_2(x)


class OutputNet(nn.Module):
    """Input `[N, 3, 48, 48]`; outputs probability `[N, 1]`, regression `[N, 4]` and landmarks `[N, 10]`.

    landmarks: five x, then five y, in parts of the crop's side: left eye, right eye, nose, corners of the mouth.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 32, 3), nn.PReLU(32)
        self.conv2, self.prelu2 = nn.Conv2d(32, 64, 3), nn.PReLU(64)
        self.conv3, self.prelu3 = nn.Conv2d(64, 64, 3), nn.PReLU(64)
        self.conv4, self.prelu4 = nn.Conv2d(64, 128, 2), nn.PReLU(128)
        self.dense5, self.prelu5 = nn.Linear(1152, 256), nn.PReLU(256)
        self.dense6_1, self.dense6_2, self.dense6_3 = nn.Linear(256, 2), nn.Linear(256, 4), nn.Linear(256, 10)

    def forward(self, crop: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        x = _pooled(self.prelu1(self.conv1(_scaled(crop))), 3)
        x = _pooled(self.prelu2(self.conv2(x)), 3)
        x = _pooled(self.prelu3(self.conv3(x)), 2)
        x = self.prelu5(self.dense5(_flat(self.prelu4(self.conv4(x)))))
        return _probability(self.dense6_1(x)), self.dense6_2(x), self.dense6_3(x)


def proposal_net() -> ProposalNet:
    """An untrained network; weights come from the checkpoint."""
    return ProposalNet()


def refinement_net() -> RefinementNet:
    """An untrained network; weights come from the checkpoint."""
    return RefinementNet()


def output_net() -> OutputNet:
    """An untrained network; weights come from the checkpoint."""
    return OutputNet()
