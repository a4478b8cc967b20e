"""The truth of the scenes: from the sounds' own levels, one event for each piece, whatever breathes before it."""

from __future__ import annotations

import numpy as np
import pytest

from models.samples.sound_scenes import RATE, Utterance, scene, utterances
from serving.types import FloatArray


def voice(seconds: float, level: float = 0.3) -> FloatArray:
    at = np.arange(int(seconds * RATE)) / RATE
    return (level * np.sin(2 * np.pi * 220 * at)).astype(np.float32)


def quiet(seconds: float, level: float = 0.0) -> FloatArray:
    return (level * np.random.default_rng(3).standard_normal(int(seconds * RATE))).astype(np.float32)


def test_a_recording_is_cut_at_its_pauses_and_breath_before_it_is_no_part() -> None:
    sound = np.concatenate([quiet(0.3, 0.012), voice(0.8), quiet(0.2), voice(0.6), quiet(0.05), voice(0.5), quiet(0.3)])
    first, second = utterances(sound)
    assert (first.length / RATE, second.length / RATE) == pytest.approx((0.8, 1.15), abs=0.011)
    assert np.abs(first.samples[first.begin :][: first.length]).max() > 0.29


def test_a_click_is_neither_an_event_nor_the_measure_of_the_voice() -> None:
    sound = np.concatenate([np.ones(160, np.float32), quiet(0.5), voice(0.7, 0.09), quiet(0.5)])
    (only,) = utterances(sound)
    assert only.length / RATE == pytest.approx(0.7, abs=0.011)


def test_the_scene_says_where_each_event_begins_and_ends() -> None:
    rim = np.zeros(640, np.float32)
    pieces = [Utterance(np.concatenate([rim, voice(s), rim]), 640, int(s * RATE), "word") for s in (0.5, 0.9)]
    samples, placed = scene(pieces, np.random.default_rng(5))
    loud = np.flatnonzero(np.abs(samples) > 0.02)
    assert [round(p.end - p.begin, 3) for p in placed] == [0.5, 0.9] and placed[0].label == "word"
    assert loud[0] / RATE == pytest.approx(placed[0].begin, abs=0.002)
    assert loud[-1] / RATE == pytest.approx(placed[1].end, abs=0.002)
    assert placed[1].begin - placed[0].end > 0.7
