"""Boxes between measurements: where a track was at a moment at which nobody looked (docs/alignment.md, "Fill").

Between two measurements centre and logarithm of size move linearly in PTS; after the last one the centre goes on with
the velocity of the last two, and the size stays. Sizes are floored at a hundredth of a pixel to have a logarithm.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Boxes = npt.NDArray[np.float64]
MIN_SIDE = 0.01


def interpolate(before: Boxes, after: Boxes, share: npt.NDArray[np.float64]) -> Boxes:
    """Boxes [n, 4] at `share` [n] (0..1) of the way from `before` [n, 4] to `after` [n, 4]."""
    start, end = _centre_size(before), _centre_size(after)
    np.log(start[:, 2:], out=start[:, 2:])
    np.log(end[:, 2:], out=end[:, 2:])
    end -= start
    end *= share[:, None]
    end += start
    np.exp(end[:, 2:], out=end[:, 2:])
    return _corners(end)


def extrapolate(earlier: Boxes, last: Boxes, ratio: npt.NDArray[np.float64]) -> Boxes:
    """`last` [n, 4] moved on by `ratio` [n] times the way of its centre since `earlier` [n, 4]."""
    way = (last[:, :2] + last[:, 2:] - earlier[:, :2] - earlier[:, 2:]) * (0.5 * ratio[:, None])
    out = last.copy()
    out[:, :2] += way
    out[:, 2:] += way
    return out


def _centre_size(boxes: Boxes) -> Boxes:
    out = np.empty_like(boxes)
    np.add(boxes[:, :2], boxes[:, 2:], out=out[:, :2])
    out[:, :2] *= 0.5
    np.subtract(boxes[:, 2:], boxes[:, :2], out=out[:, 2:])
    np.maximum(out[:, 2:], MIN_SIDE, out=out[:, 2:])
    return out


def _corners(boxes: Boxes) -> Boxes:
    half = boxes[:, 2:] * 0.5
    out = np.empty_like(boxes)
    np.subtract(boxes[:, :2], half, out=out[:, :2])
    np.add(boxes[:, :2], half, out=out[:, 2:])
    return out
