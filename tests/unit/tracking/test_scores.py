"""Tracking scores equal the MOTChallenge devkit's and trackeval's; our trackers reach their floors on noised truth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from evaluation.metrics.tracking import TrackedBoxes, read_mot, score_tracks
from serving.errors import InputError
from serving.ports import Tracker
from serving.trackers import TRACKERS
from serving.tracking.deepsort import DeepSort
from serving.types import Detections
from tests.unit.tracking.track_scenes import MS, found_tracks, noised

# As printed by the Matlab devkit in the README of motmetrics: IDF1, recall, precision, FP, FN, IDs, MOTA, MOTP.
DEVKIT = {
    "TUD-Campus": (55.8, 58.2, 94.1, 13, 150, 7, 52.6, 72.3),
    "TUD-Stadtmitte": (64.5, 60.9, 94.0, 45, 452, 7, 56.4, 65.4),
}


@pytest.mark.parametrize("sequence", list(DEVKIT))
def test_the_scores_are_those_of_the_official_devkit(sequence: str, tud: Callable[[str], Path]) -> None:
    truth, found = read_mot(tud(f"{sequence}/gt.txt"), truth=True), read_mot(tud(f"{sequence}/test.txt"))
    s = score_tracks(truth, found)
    shares = [round(100 * v, 1) for v in (s.idf1, s.recall, s.precision, s.mota, s.motp)]
    idf1, recall, precision, fp, fn, switches, mota, motp = DEVKIT[sequence]
    assert shares == [idf1, recall, precision, mota, motp]
    assert (s.false_positives, s.misses, s.id_switches) == (fp, fn, switches)


@pytest.mark.parametrize("sequence", list(DEVKIT))
def test_hota_equals_trackeval(sequence: str, tud: Callable[[str], Path]) -> None:
    from trackeval.metrics import HOTA

    truth, found = read_mot(tud(f"{sequence}/gt.txt"), truth=True), read_mot(tud(f"{sequence}/test.txt"))
    ours = score_tracks(truth, found).hota
    expected = HOTA().eval_sequence(_trackeval_data(truth, found))
    assert ours == pytest.approx(float(np.mean(expected["HOTA"])), abs=1e-9)


def test_a_perfect_tracker_has_1_and_a_switch_costs(tud: Callable[[str], Path]) -> None:
    truth = read_mot(tud("TUD-Campus/gt.txt"), truth=True)
    assert (score_tracks(truth, truth).mota, score_tracks(truth, truth).hota) == (1.0, 1.0)
    half = max(truth) // 2
    switched = {n: TrackedBoxes(b.ids + (1000 if n > half else 0), b.xyxy) for n, b in truth.items()}
    worse = score_tracks(truth, switched)
    assert worse.id_switches > 0 and worse.idf1 < 0.7 and worse.hota < 0.8


# Floors a little under what was seen with 10 % drops, 2 pixels of noise and a tenth of the scores low, at 25 frames/s.
FLOORS = {
    ("bytetrack", "TUD-Campus"): (0.78, 0.88),
    ("bytetrack", "TUD-Stadtmitte"): (0.80, 0.90),
    ("ocsort", "TUD-Campus"): (0.58, 0.73),
    ("ocsort", "TUD-Stadtmitte"): (0.55, 0.70),
    ("deepsort", "TUD-Campus"): (0.58, 0.73),
    ("deepsort", "TUD-Stadtmitte"): (0.68, 0.82),
}


@pytest.mark.parametrize(("name", "sequence"), list(FLOORS))
def test_our_trackers_on_noised_truth(name: str, sequence: str, tud: Callable[[str], Path]) -> None:
    truth = read_mot(tud(f"{sequence}/gt.txt"), truth=True)
    looks = 32 if name == "deepsort" else 0
    tracker: Tracker = TRACKERS[name]()
    given = noised(truth, seed=1, looks=looks)
    s = score_tracks(truth, found_tracks((n, tracker.update(boxes, n * 40 * MS)) for n, boxes in given))
    print(name, sequence, s)
    hota, idf1 = FLOORS[name, sequence]
    assert s.hota >= hota and s.idf1 >= idf1


def test_appearance_tells_apart_who_swapped_places_unseen() -> None:
    """Two people walk at each other, are hidden for half a second, and turn back: overlap takes one for the other."""
    rng = np.random.default_rng(5)
    faces = rng.normal(size=(2, 64))
    swapped = {}
    for looks in (False, True):
        tracker, before, after = DeepSort(), [-1, -1], [-1, -1]
        for n in range(60):
            hidden = 20 <= n < 32
            x = 4.0 * n if n < 26 else 4.0 * (52 - n)  # turns back at frame 26
            xyxy = np.array([[x, 0, x + 40, 100], [208 - x, 0, 248 - x, 100]], np.float32)
            look = (faces + rng.normal(0, 0.3, faces.shape)).astype(np.float32) if looks else None
            two = Detections(xyxy, np.full(2, 0.9, np.float32), np.zeros(2, np.int64), appearance=look)
            ids = tracker.update(Detections.empty() if hidden else two, n * 40 * MS).tracker_id
            assert ids is not None
            before, after = (ids.tolist() if n == 19 else before), (ids.tolist() if n == 59 else after)
        assert min(before) > 0 and min(after) > 0
        swapped[looks] = after != before
    assert swapped == {False: True, True: False}


@pytest.mark.parametrize("text", ["1,2,3", "1,1,0,0,5,5,1\n1,1,9,9,5,5,1", "a,b,c,d,e,f"])
def test_a_broken_file_is_named_with_its_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "gt.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=r"gt\.txt:\d"):
        read_mot(path)


def _trackeval_data(truth: dict[int, TrackedBoxes], found: dict[int, TrackedBoxes]) -> dict[str, object]:
    from trackers.eval import box_iou

    frames = sorted({*truth, *found})
    empty = TrackedBoxes(np.empty(0, np.int64), np.empty((0, 4), np.float32))
    data: dict[str, object] = {}
    for side, tracks in (("gt", truth), ("tracker", found)):
        numbers = {i: n for n, i in enumerate(sorted({i for b in tracks.values() for i in b.ids.tolist()}))}
        rows = [np.array([numbers[i] for i in tracks.get(f, empty).ids.tolist()], int) for f in frames]
        data |= {f"{side}_ids": rows, f"num_{side}_ids": len(numbers), f"num_{side}_dets": sum(map(len, rows))}
    data["similarity_scores"] = [box_iou(truth.get(f, empty).xyxy, found.get(f, empty).xyxy) for f in frames]
    data["num_timesteps"] = len(frames)
    return data
