"""A served model that hears: whole files and pieces with state give the same; bad sound and bad tensors are refused."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
import pytest
import soundfile

from serving.errors import BodyInvalid
from serving.errors_audio import AudioInvalid, AudioTooLong
from serving.hearing import MOST_WINDOWS, hear
from serving.preprocess.audio import SoundLimits, windows_of
from serving.spec import ModelSpec
from serving.types import Array, InferRequest

SPEC = ModelSpec.model_validate(
    {
        "name": "ears", "task": "audio", "checkpoint": {"path": "x.pth"}, "factory": {"callable": "a:b"},
        "sound": {"window": 160, "context": 16, "state": [{"input": "state", "output": "state_out", "shape": [2]}]},
        "labels": ["loud"], "outputs": ["p"], "parity": {"samples": "s"},
    }
)  # fmt: skip
LIMITS = SoundLimits()


def network(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The loudness so far, as a leaky sum: every score depends on all windows before it."""
    level = np.abs(inputs["window"]).mean(axis=1, keepdims=True)
    after = 0.9 * inputs["state"] + level
    return {"p": after[:, :1].astype(np.float32), "state_out": after.astype(np.float32)}


def noise(seconds: float, rate: int = 16_000) -> Array:
    return (0.3 * np.random.default_rng(1).standard_normal(int(seconds * rate))).astype(np.float32)


def flac(samples: Array, rate: int = 16_000, channels: int = 1) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, np.repeat(samples[:, None], channels, axis=1), rate, format="FLAC")
    return out.getvalue()


def ask(**given: object) -> dict[str, Array]:
    return hear(network, InferRequest(**given), SPEC, {}, LIMITS)[0]  # type: ignore[arg-type]


def test_a_file_and_its_pieces_with_state_give_the_same() -> None:
    assert SPEC.sound is not None
    data = flac(noise(1.234))
    whole = ask(encoded=data)
    windows = np.concatenate(list(windows_of(data, SPEC.sound)))
    assert whole["p"].shape == (len(windows), 1) == (124, 1) and int(whole["heard"]) == int(1.234 * 16_000)
    state, parts = np.zeros(2, np.float32), []
    for piece in np.array_split(windows, 9):
        answer = ask(tensors={"window": piece, "state": state})
        parts.append(answer["p"])
        state = answer["state"]
    assert np.array_equal(np.concatenate(parts), whole["p"]) and np.array_equal(state, whole["state"])


@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (96_000, 1), (48_000, 8)])
def test_other_rates_and_seven_point_one_are_heard(rate: int, channels: int) -> None:
    at = np.arange(rate) / rate
    tone = (0.4 * np.sin(2 * np.pi * 300 * at)).astype(np.float32)
    other, plain = ask(encoded=flac(tone, rate, channels)), ask(encoded=flac(tone[:: max(1, rate // 16_000)], 16_000))
    assert abs(len(other["p"]) - 100) <= 1
    if rate == 96_000:
        assert np.abs(other["p"][10:90] - plain["p"][10:90]).max() < 0.05


def test_a_long_silence_in_a_small_file_is_refused_by_its_header() -> None:
    """Hours of it are a few hundred kilobytes of FLAC, and would hold the model for minutes."""
    data = flac(np.zeros(8_000 * 40, np.float32), 8_000)
    assert len(data) < 10_000
    with pytest.raises(AudioTooLong, match="40 s of sound: expected at most 30"):
        hear(network, InferRequest(encoded=data), SPEC, {}, SoundLimits(max_seconds=30))


def test_silence_is_a_normal_answer() -> None:
    assert float(ask(encoded=flac(np.zeros(16_000, np.float32)))["p"].max()) == 0.0


def test_a_sound_that_is_shorter_than_one_sample_of_the_model_is_refused() -> None:
    with pytest.raises(AudioInvalid, match="shorter than one sample at 16000 Hz"):
        hear(network, InferRequest(encoded=b"\0\0"), SPEC, {"pcm": "48000x1"}, LIMITS)


@pytest.mark.parametrize(
    ("tensors", "about"),
    [
        ({"window": np.zeros((3, 170), np.float32)}, "tensor window"),
        ({"window": np.zeros((3, 176), np.float64)}, "tensor window"),
        ({"window": np.zeros((0, 176), np.float32)}, "one to"),
        ({"window": np.zeros((MOST_WINDOWS + 1, 176), np.float32)}, "one to"),
        ({"window": np.full((1, 176), np.nan, np.float32)}, "no numbers"),
        ({"window": np.zeros((1, 176), np.float32), "sr": np.zeros(1, np.float32)}, "tensor sr"),
        ({"state": np.zeros(2, np.float32)}, "expected the tensor window"),
    ],
)
def test_wrong_tensors_are_refused_by_name(tensors: dict[str, Array], about: str) -> None:
    with pytest.raises(BodyInvalid, match=about):
        ask(tensors=tensors)


def test_a_picture_is_no_sound() -> None:
    with pytest.raises(BodyInvalid, match="takes sound"):
        ask(frame=np.zeros((4, 4, 3), np.uint8))
