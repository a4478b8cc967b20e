"""The rows of the conversion matrix: each a network with random seeded weights and the shape of its input."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import nn
from torchvision.ops import FeaturePyramidNetwork

models = torchvision.models
Shape = tuple[int, ...]


class Neck(nn.Module):
    """ResNet-18's last three maps through a feature pyramid: three maps out."""

    def __init__(self) -> None:
        super().__init__()
        trunk = models.resnet18(weights=None)
        self.stem = nn.Sequential(trunk.conv1, trunk.bn1, trunk.relu, trunk.maxpool, trunk.layer1)
        self.stages = nn.ModuleList([trunk.layer2, trunk.layer3, trunk.layer4])
        self.fpn = FeaturePyramidNetwork([128, 256, 512], 64)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """[n, 3, h, w] -> maps of 64 channels at 1/8, 1/16, 1/32."""
        x, maps = self.stem(x), OrderedDict()
        for index, stage in enumerate(self.stages):
            x = stage(x)
            maps[str(index)] = x
        return tuple(self.fpn(maps).values())


class UNet(nn.Module):
    """Two levels down, transposed convolutions and one bilinear step up, skips joined by channel."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()

        def block(inputs: int, outputs: int) -> nn.Module:
            return nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
                nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
            )  # fmt: skip

        self.down = nn.ModuleList([block(3, width), block(width, 2 * width)])
        self.bottom = block(2 * width, 4 * width)
        self.up = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.join = nn.ModuleList([block(4 * width, 2 * width), block(3 * width, width)])
        self.resize = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, 3, h, w] -> [n, 2, h, w]."""
        first = self.down[0](x)
        second = self.down[1](nn.functional.max_pool2d(first, 2))
        x = self.up(self.bottom(nn.functional.max_pool2d(second, 2)))
        x = self.join[0](torch.cat([x, second], 1))
        return self.head(self.join[1](torch.cat([self.resize(x), first], 1)))


class Recurrent(nn.Module):
    """Two bidirectional layers and a head on the last step."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rnn = kind(20, 32, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(64, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, steps, 20] -> [n, 7]."""
        return self.head(self.rnn(x)[0][:, -1])


class Activations(nn.Module):
    """One branch for each common activation, joined by channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.branches = nn.ModuleList(
            [
                *(nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(0.1), nn.PReLU(8), nn.ELU(), nn.SELU(), nn.CELU(0.5)),
                *(nn.GELU(), nn.GELU(approximate="tanh"), nn.SiLU(), nn.Mish(), nn.Hardswish(), nn.Hardsigmoid()),
                *(nn.Sigmoid(), nn.LogSigmoid(), nn.Tanh(), nn.Hardtanh(), nn.Softplus(), nn.Softsign()),
                *(nn.Threshold(0.1, -1.0), nn.GLU(dim=1), nn.Softmax(dim=1), nn.LogSoftmax(dim=1)),
            ]
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, 3, h, w] -> [n, channels, h, w]."""
        x = self.conv(x)
        return torch.cat([branch(x) for branch in self.branches], 1)


class SpatialTransformer(nn.Module):
    """An affine grid predicted from the picture, and the picture sampled on it."""

    def __init__(self) -> None:
        super().__init__()
        self.locate = nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.theta = nn.Linear(8, 6)
        self.head = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, 3, 32, 32] -> [n, 4, 30, 30]."""
        theta = 0.1 * self.theta(self.locate(x)).view(-1, 2, 3) + torch.eye(2, 3)
        grid = nn.functional.affine_grid(theta, [x.shape[0], 3, 32, 32], align_corners=False)
        return self.head(nn.functional.grid_sample(x, grid, align_corners=False))


class Determinant(nn.Module):
    """An operator that ONNX has and the engines have not."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(1, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, 3, 3] -> [n, 4]."""
        return self.head(torch.linalg.det(x)[:, None])


class Bessel(nn.Module):
    """An operator that ONNX has no word for."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, 3, 3] -> [n, 3, 3]."""
        return torch.special.i1(x)


def _vgg() -> nn.Module:
    """VGG-11 with BatchNorm; its classifier is narrower, as half a gigabyte of one matrix shows nothing more."""
    net = models.vgg11_bn(weights=None)
    net.classifier = nn.Sequential(nn.Linear(512 * 49, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 10))
    return net


PICTURE: Shape = (3, 64, 64)
ROWS: dict[str, tuple[Callable[[], nn.Module], Shape]] = {
    "VGG-11": (_vgg, PICTURE),
    "ResNet-18": (lambda: models.resnet18(weights=None), PICTURE),
    "ResNet-50": (lambda: models.resnet50(weights=None), PICTURE),
    "ResNeXt-50": (lambda: models.resnext50_32x4d(weights=None), PICTURE),
    "DenseNet-121": (lambda: models.densenet121(weights=None), PICTURE),
    "Inception-v3": (lambda: models.inception_v3(weights=None, init_weights=True, aux_logits=False), (3, 107, 107)),
    "GoogLeNet": (lambda: models.googlenet(weights=None, init_weights=True, aux_logits=False), PICTURE),
    "MobileNetV2": (lambda: models.mobilenet_v2(weights=None), PICTURE),
    "MobileNetV3-small": (lambda: models.mobilenet_v3_small(weights=None), PICTURE),
    "ShuffleNetV2": (lambda: models.shufflenet_v2_x1_0(weights=None), PICTURE),
    "EfficientNet-B0": (lambda: models.efficientnet_b0(weights=None), PICTURE),
    "ConvNeXt-tiny": (lambda: models.convnext_tiny(weights=None), PICTURE),
    "FPN neck": (Neck, PICTURE),
    "UNet": (UNet, PICTURE),
    "LSTM": (lambda: Recurrent(nn.LSTM), (12, 20)),
    "GRU": (lambda: Recurrent(nn.GRU), (12, 20)),
    "ViT": (lambda: models.VisionTransformer(32, 8, 3, 4, 64, 128, num_classes=10), (3, 32, 32)),
    "Swin-tiny": (lambda: models.swin_t(weights=None), PICTURE),
    "Activations": (Activations, (3, 16, 16)),
    "Spatial transformer": (SpatialTransformer, (3, 32, 32)),
    "Determinant": (Determinant, (3, 3)),
    "Bessel function": (Bessel, (3, 3)),
}


def build(row: str) -> tuple[nn.Module, Shape]:
    """The row's network in evaluation mode; its running statistics are those of random pictures, as training leaves
    them: with the ones a fresh BatchNorm has, deep random networks blow up or die out."""
    make, shape = ROWS[row]
    torch.manual_seed(11)
    net = make()
    for parameter in net.parameters():
        # Heads and layer scales that training starts at (nearly) zero would hide what comes before them.
        if parameter.ndim > 1 and parameter.abs().max() < 1e-4:
            nn.init.normal_(parameter, std=0.1)
    norms = [part for part in net.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None  # a plain mean over what follows
        # With no bias a deep random ReLU network is chaotic: it multiplies any rounding, which no trained one does.
        nn.init.uniform_(norm.bias, 0.5, 1.5)
    if norms:
        net.train()
        with torch.no_grad():
            for _ in range(2):
                net(torch.randn(8, *shape))
    return net.eval(), shape


def outputs_of(net: nn.Module, x: torch.Tensor) -> list[Any]:
    """The network's answer as a list of arrays."""
    with torch.no_grad():
        answer = net(x)
    tensors = answer if isinstance(answer, tuple) else (answer,)
    return [tensor.numpy() for tensor in tensors]
