"""The scenes that sound_events is trained on and scored on hold what they say."""

from __future__ import annotations

import numpy as np
import pytest

from models.samples.sound_scenes import RATE, Utterance
from models.train.sound_event_scenes import JUDGED, LABELS, SLICES, Draw, Scene, scenes, truth_text
from models.train.sound_events import truth_of as windows_told
from models.train.sound_events import windows_of_scene
from serving.tasks.audio import truth_of

VOICE = Utterance(np.pad(np.sin(np.arange(RATE) * 0.05), 640).astype(np.float32), 640, RATE, "speech")


def made(count: int, snr_db: float, judged: bool = False, seed: int = 5) -> list[Scene]:
    return scenes(count, seed, [VOICE], judged, (snr_db, snr_db))


def test_scenes_follow_from_the_seed_and_hold_every_class() -> None:
    one, again, other = made(12, 20), made(12, 20), made(12, 20, seed=6)
    assert all(np.array_equal(a.samples, b.samples) and a.placed == b.placed for a, b in zip(one, again, strict=True))
    assert not np.array_equal(one[0].samples, other[0].samples)
    assert {placed.label for scene in one for placed in scene.placed} == set(LABELS)
    assert not one[11].placed and len(one[11].samples) == 6 * RATE, "one in twelve is noise alone"
    assert all(scene.samples.dtype == np.float32 and np.abs(scene.samples).max() <= 0.96 for scene in one)
    overlapping = [
        s for s in made(40, 20) if any(a.end > b.begin for a, b in zip(s.placed, s.placed[1:], strict=False))
    ]
    assert 3 <= len(overlapping) <= 20, "some sounds go on at once"


def test_what_is_loud_is_told_and_what_is_told_is_loud() -> None:
    for scene in made(24, 60):
        told = np.zeros(len(scene.samples), bool)
        for placed in scene.placed:
            begin, end = round(placed.begin * RATE), round(placed.end * RATE)
            told[begin:end] = True
            event = scene.samples[begin:end]
            for edge in (event[: RATE // 20], event[-RATE // 50 :]):
                assert np.abs(edge).max() > 0.01 * np.abs(event).max(), (placed, "its edge is silent")
        near = np.convolve(told, np.ones(RATE // 12), "same") > 0
        if scene.placed:
            assert np.abs(scene.samples[~near]).max() < 0.12 * np.abs(scene.samples).max()


@pytest.mark.parametrize("snr_db", [20.0, 0.0])
def test_the_noise_is_as_loud_as_it_is_said_to_be(snr_db: float) -> None:
    found = []
    for scene in made(24, snr_db):
        told = np.zeros(len(scene.samples), bool)
        for placed in scene.placed:
            told[round(placed.begin * RATE) : round(placed.end * RATE) + RATE // 4] = True
        for placed in scene.placed[:1]:
            noise = np.mean(scene.samples[~told] ** 2)
            event = np.mean(scene.samples[round(placed.begin * RATE) : round(placed.end * RATE)] ** 2)
            found.append(10 * np.log10(event / noise - 1))
    assert np.median(found) == pytest.approx(snr_db, abs=0.7)


def test_no_judged_sound_has_a_parameter_that_was_trained_on() -> None:
    rng = np.random.default_rng(1)
    for judged in (False, True):
        places = np.array([Draw(rng, judged).between(100, 900) for _ in range(400)]) - 100
        slices = (places / 800 * 2 * SLICES).astype(int)
        assert set(slices.tolist()) == set(range(int(judged), 2 * SLICES, 2)), "every slice of its own, and no other"
        assert 100 <= min(Draw(rng, judged).octaves(100, 900) for _ in range(50)) < 250
    names = ["cards/001.wav", "cards/004.wav", "librivox/sense-0930.wav", "librivox/sense-0870.wav", "goforward.raw"]
    assert [name.endswith(JUDGED) for name in names] == [False, True, True, False, True]


def test_the_truth_of_a_file_and_that_of_training_are_one() -> None:
    for scene in made(12, 20, judged=True):
        events = truth_of(truth_text(scene), LABELS)
        assert [(b, e, LABELS[kind]) for b, e, kind in events] == [
            (pytest.approx(p.begin, abs=6e-4), pytest.approx(p.end, abs=6e-4), p.label) for p in scene.placed
        ]
        windows = windows_told(scene)
        assert len(windows) == len(windows_of_scene(scene.samples)) == 188
        seconds = windows.sum(axis=0) * 0.032
        for kind in range(len(LABELS)):
            wanted = sum(end - begin for begin, end, other in events if other == kind)
            assert seconds[kind] == pytest.approx(wanted, abs=0.033)
