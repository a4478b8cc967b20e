"""Success and precision curves against figures reckoned by hand, and IoU against torchvision's."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.metrics.single_object_tracking import OVERLAPS, iou, score_following
from serving.errors import InputError

BOX = (10.0, 10.0, 30.0, 30.0)


def test_curves_by_hand() -> None:
    """Behind the first picture: exact (IoU 1), 10 pixels to the right (IoU 1/3), no box, and one without the object."""
    truth = [BOX, BOX, BOX, BOX, None]
    found = [None, BOX, (20.0, 10.0, 40.0, 30.0), None, BOX]
    scores = score_following(truth, found)
    assert scores.frames == 3 and scores.false == 1.0
    assert scores.success[0] == pytest.approx(2 / 3) and scores.success[6] == pytest.approx(2 / 3)
    assert OVERLAPS[7] == pytest.approx(0.35) and scores.success[7] == pytest.approx(1 / 3)
    assert scores.success[20] == 0.0, "no IoU is above 1"
    assert scores.auc == pytest.approx((7 * 2 / 3 + 13 / 3) / 21)
    assert scores.precision[9] == pytest.approx(1 / 3) and scores.precision_20 == pytest.approx(2 / 3)


@pytest.mark.needs("torch")
def test_iou_equals_torchvisions() -> None:
    import torch
    from torchvision.ops import box_iou

    rng = np.random.default_rng(1)
    corner, size = rng.uniform(0, 60, (2, 40, 2)), rng.uniform(1, 50, (2, 40, 2))
    one, other = np.concatenate([corner, corner + size], axis=2)
    expected = torch.diagonal(box_iou(torch.from_numpy(one), torch.from_numpy(other)))
    assert np.allclose(iou(one, other), expected.numpy())


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(InputError, match="2 pictures have truth, 1"):
        score_following([BOX, BOX], [BOX])
    with pytest.raises(InputError, match="true box"):
        score_following([BOX, None], [BOX, BOX])
