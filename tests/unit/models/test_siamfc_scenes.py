"""The pairs that SiamFC is trained on and the clips that it is scored on hold what they say."""

from __future__ import annotations

import cv2
import numpy as np

from models.train.siamfc_scenes import Sources, clip, pairs


def photo(seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (24, 32, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(coarse, (480, 360), interpolation=cv2.INTER_CUBIC), np.uint8)


def test_pairs_follow_from_the_seed_and_the_object_is_where_the_offset_says() -> None:
    """OpenCV's own matching finds the middle of the template there in most pairs; a fixed place in few."""
    sources = Sources((photo(1), photo(2), photo(3)))
    made, again = pairs(sources, 24, 5), pairs(sources, 24, 5)
    assert np.array_equal(made.search, again.search) and np.array_equal(made.offset, again.offset)
    assert made.template.shape == (24, 63, 63, 3) and made.search.shape == (24, 127, 127, 3)
    found = []
    for template, search in zip(made.template, made.search, strict=True):
        scores = cv2.matchTemplate(search, template[18:45, 18:45], cv2.TM_CCOEFF_NORMED)
        row, column = np.unravel_index(int(scores.argmax()), scores.shape)
        found.append((column + 13 - 63, row + 13 - 63))
    near = np.abs(np.array(found) - made.offset).max(axis=1) <= 5
    still = np.abs(made.offset).max(axis=1) <= 5
    assert near.mean() >= 0.6 > still.mean() + 0.2, (near.mean(), still.mean())


def test_a_clips_boxes_hold_its_object_and_hidden_pictures_are_told() -> None:
    look = np.full((40, 40, 3), (250, 20, 20), np.uint8)
    made = clip(look, np.full((200, 300, 3), 120, np.uint8), 60, seed=3)
    assert len(made.frames) == len(made.boxes) == len(made.seen) == 60 and 0 < made.seen.count(False) < 15
    for frame, box, seen in zip(made.frames[:20], made.boxes, made.seen, strict=False):
        red = np.argwhere((frame[:, :, 0] > 200) & (frame[:, :, 1] < 80))
        top, left = red.min(axis=0)
        bottom, right = red.max(axis=0) + 1
        assert seen and np.abs(np.array([left, top, right, bottom]) - box).max() <= 4
