"""SSDLite on MobileNetV2, as TensorFlow's Object Detection API builds it (300x300, 1917 anchors).

Sources: Sandler et al., MobileNetV2, arXiv:1801.04381 (backbone, SSDLite); Liu et al., SSD, arXiv:1512.02325 (anchors,
box coding). TensorFlow's rules kept here: SAME padding is uneven at stride 2 on even sides (the odd pixel goes right
and below), BatchNorm epsilon 0.001, sigmoid scores with the background in column 0, box code `cy, cx, h, w` scaled by
10, 10, 5, 5.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

# expansion, channels, repeats, stride of the first (MobileNetV2, table 2)
_BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
_TAP = 13  # the block whose expansion (before its stride) feeds the first predictor
_EXTRAS = ((256, 512), (128, 256), (128, 256), (64, 128))
_BOX_SCALES = (10.0, 10.0, 5.0, 5.0)
_RATIOS = (1.0, 2.0, 0.5, 3.0, 0.3333, 1.0)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME padding of one axis: pixels before and after, so that the output is ceil(size / stride)."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def anchor_boxes(grids: Sequence[int], lowest: float = 0.2, highest: float = 0.95) -> Tensor:
    """Anchors float32 `[n, 4]` as `cy, cx, h, w` in 0..1 of the picture: row by row, all anchors of a cell together.

    The first grid has three (scales 0.1, lowest, lowest; ratios 1, 2, 1/2), the others six; the sixth is a square
    of the geometric mean of this grid's scale and the next one's.
    """
    step = (highest - lowest) / (len(grids) - 1)
    scales = [lowest + step * level for level in range(len(grids))] + [1.0]
    boxes = []
    for level, grid in enumerate(grids):
        sides = torch.tensor([scales[level]] * 5 + [(scales[level] * scales[level + 1]) ** 0.5])
        roots = torch.tensor(_RATIOS).sqrt()
        if level == 0:
            sides, roots = torch.tensor([0.1, lowest, lowest]), roots[:3]
        size = torch.stack([sides / roots, sides * roots], 1)
        centre = (torch.arange(grid, dtype=torch.float32) + 0.5) / grid
        centres = torch.cartesian_prod(centre, centre).repeat_interleave(len(size), 0)
        boxes.append(torch.cat([centres, size.repeat(grid * grid, 1)], 1))
    return torch.cat(boxes)


class _Conv(nn.Sequential):
    """Convolution with SAME padding for a known input size, BatchNorm, and ReLU6 unless it is a projection."""

    def __init__(
        self,
        channels: int,
        out: int,
        size: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        *,
        relu: bool = True,
    ) -> None:
        before, after = same_padding(size, kernel, stride)
        even = before == after
        pad: list[nn.Module] = [] if even else [nn.ZeroPad2d((before, after, before, after))]
        conv = nn.Conv2d(channels, out, kernel, stride, before if even else 0, groups=groups, bias=False)
        super().__init__()
        for module in pad:
            self.add_module("pad", module)
        self.add_module("conv", conv)
        self.add_module("bn", nn.BatchNorm2d(out, eps=1e-3))
        if relu:
            self.add_module("relu", nn.ReLU6())


class _Block(nn.Module):
    """Inverted residual. `forward` gives the expansion too: one of them is tapped."""

    def __init__(self, channels: int, out: int, expansion: int, stride: int, size: int) -> None:
        super().__init__()
        wide = channels * expansion
        self.expand = _Conv(channels, wide, size) if expansion > 1 else nn.Identity()
        self.depthwise = _Conv(wide, wide, size, 3, stride, groups=wide)
        self.project = _Conv(wide, out, -(-size // stride), relu=False)
        self.residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The block's output, and its expansion before the depthwise convolution."""
        wide = self.expand(x)
        y = self.project(self.depthwise(wide))
        return (x + y if self.residual else y), wide


class _Predictor(nn.Module):
    """SSDLite head of one grid: a depthwise 3x3 then a 1x1, apart for boxes and classes."""

    def __init__(self, channels: int, size: int, anchors: int, classes: int) -> None:
        super().__init__()
        self.box_depthwise = _Conv(channels, channels, size, 3, groups=channels)
        self.box = nn.Conv2d(channels, anchors * 4, 1)
        self.class_depthwise = _Conv(channels, channels, size, 3, groups=channels)
        self.classes = nn.Conv2d(channels, anchors * classes, 1)
        self.columns = classes

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Box codes `[N, cells * anchors, 4]` and logits `[N, cells * anchors, classes]`, row by row."""
        codes = self.box(self.box_depthwise(x)).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4))
        logits = self.classes(self.class_depthwise(x)).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, self.columns))
        return codes, logits


class SsdLite(nn.Module):
    """Input `[N, 3, 300, 300]` float32 RGB in -1..1.

    Outputs: boxes `[N, 1917, 4]` xyxy in 0..1 of the input plane (neither clipped nor thinned out), scores
    `[N, 1917, 1 + classes]` in 0..1 with the background in column 0.
    """

    def __init__(self, classes: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.stem = _Conv(3, 32, size, 3, 2)
        channels, plane = 32, -(-size // 2)
        blocks: list[_Block] = []
        for expansion, out, repeats, stride in _BLOCKS:
            for repeat in range(repeats):
                blocks.append(_Block(channels, out, expansion, stride if repeat == 0 else 1, plane))
                if len(blocks) == _TAP + 1:
                    taps = [(channels * expansion, plane)]
                if repeat == 0:
                    plane = -(-plane // stride)
                channels = out
        self.blocks = nn.ModuleList(blocks)
        self.last = _Conv(channels, 1280, plane)
        taps.append((1280, plane))
        self.extras = nn.ModuleList()
        for narrow, wide in _EXTRAS:
            channels, plane = taps[-1]
            depthwise = _Conv(narrow, narrow, plane, 3, 2, groups=narrow)
            plane = -(-plane // 2)
            self.extras.append(nn.Sequential(_Conv(channels, narrow, 1), depthwise, _Conv(narrow, wide, plane)))
            taps.append((wide, plane))
        self.predictors = nn.ModuleList(
            _Predictor(width, grid, 3 if level == 0 else 6, classes + 1) for level, (width, grid) in enumerate(taps)
        )
        self.register_buffer("anchors", anchor_boxes([grid for _, grid in taps]), persistent=False)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes and scores of a batch."""
        if not torch._C._get_tracing_state() and image.shape[-2:] != (self.size, self.size):
            raise ValueError(f"image: expected [N, 3, {self.size}, {self.size}], got {list(image.shape)}")
        x = self.stem(image)
        features = []
        for number, block in enumerate(self.blocks):
            x, wide = block(x)
            if number == _TAP:
                features.append(wide)
        features.append(self.last(x))
        for extra in self.extras:
            features.append(extra(features[-1]))
        found = [predictor(feature) for predictor, feature in zip(self.predictors, features, strict=True)]
        codes, logits = torch.cat([box for box, _ in found], 1), torch.cat([logit for _, logit in found], 1)
        return self._decode(codes), logits.sigmoid()

    def _decode(self, codes: Tensor) -> Tensor:
        anchors = self.get_buffer("anchors")
        cy = codes[..., 0] / _BOX_SCALES[0] * anchors[:, 2] + anchors[:, 0]
        cx = codes[..., 1] / _BOX_SCALES[1] * anchors[:, 3] + anchors[:, 1]
        half_h = (codes[..., 2] / _BOX_SCALES[2]).exp() * anchors[:, 2] / 2
        half_w = (codes[..., 3] / _BOX_SCALES[3]).exp() * anchors[:, 3] / 2
        return torch.stack([cx - half_w, cy - half_h, cx + half_w, cy + half_h], -1)


def ssdlite_mobilenet_v2(classes: int = 1, size: int = 300) -> SsdLite:
    """An untrained network; weights come from the checkpoint."""
    return SsdLite(classes, size)
