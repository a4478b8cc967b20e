"""Scenes of sound with exact truth: recordings laid into a quiet room at known places. Seeded; NumPy only."""

from __future__ import annotations

import io
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serving.types import FloatArray

RATE = 16_000
STEP = 160  # a hundredth of a second
RIM = 640  # 40 ms


@dataclass(frozen=True, slots=True)
class Placed:
    """A piece of a scene: begin and end in seconds, and what it is."""

    begin: float
    end: float
    label: str = ""


def read_wav(path: Path) -> FloatArray:
    """Mono float32 of a 16-bit WAV, or of bare little-endian samples (.raw), at the rate it has."""
    if path.suffix == ".raw":
        return np.frombuffer(path.read_bytes(), "<i2").astype(np.float32) / np.float32(32768)
    with wave.open(str(path)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, file.getnchannels())
    return (samples.astype(np.float32) / np.float32(32768)).mean(axis=1, dtype=np.float32)


def write_wav(path: Path, samples: FloatArray, rate: int = RATE, channels: int = 1) -> None:
    """16-bit WAV; the same samples on every channel."""
    path.write_bytes(wav_bytes(samples, rate, channels))


def wav_bytes(samples: FloatArray, rate: int = RATE, channels: int = 1) -> bytes:
    """The bytes of `write_wav`."""
    whole = np.clip(np.round(samples * 32767), -32768, 32767).astype("<i2")
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.repeat(whole[:, None], channels, axis=1).tobytes())
    return out.getvalue()


@dataclass(frozen=True, slots=True)
class Utterance:
    """A piece of a recording: samples, the first that belongs to the event and how many do (the rest is its rim)."""

    samples: FloatArray
    begin: int
    length: int
    label: str = ""


def utterances(
    samples: FloatArray, label: str = "", share: float = 0.1, pause_s: float = 0.1, least_s: float = 0.4
) -> list[Utterance]:
    """A recording cut at its own pauses, so that every piece is one event and none has a pause inside.

    Hundredths of a second are loud whose level is over `share` (-20 dB) of the recording's loud ones (the 98th
    percentile: a click is not the measure of a voice); what is quiet for longer than `pause_s` is a pause. Breath and
    room before the first word are quiet. Pieces shorter than `least_s` are left out; each keeps a rim of 40 ms, and its
    event is what is loud. From levels alone: no detector has a say in the truth that detectors are measured with.
    """
    count = len(samples) // STEP
    levels = np.sqrt((samples[: count * STEP].reshape(count, STEP) ** 2).mean(axis=1))
    loud = np.flatnonzero(levels > share * np.percentile(levels, 98))
    found = []
    for run in np.split(loud, np.flatnonzero(np.diff(loud) * STEP > pause_s * RATE) + 1):
        begin, end = int(run[0]) * STEP, int(run[-1] + 1) * STEP
        if end - begin >= least_s * RATE:
            first = max(0, begin - RIM)
            found.append(Utterance(samples[first : end + RIM], begin - first, end - begin, label))
    return found


def scene(
    pieces: Sequence[Utterance], rng: np.random.Generator, gap_s: tuple[float, float] = (0.7, 1.6)
) -> tuple[FloatArray, list[Placed]]:
    """The pieces one after the other with pauses of a quiet room (white noise of -60 dB) between and around them."""
    parts: list[FloatArray] = []
    placed: list[Placed] = []
    at = 0
    for piece in pieces:
        pause = int(rng.uniform(*gap_s) * RATE)
        gain = np.float32(rng.uniform(0.5, 1.0) * 0.6 / max(1e-3, float(np.abs(piece.samples).max())))
        parts += [np.zeros(pause, np.float32), piece.samples * gain]
        begin = at + pause + piece.begin
        placed.append(Placed(begin / RATE, (begin + piece.length) / RATE, piece.label))
        at += pause + len(piece.samples)
    parts.append(np.zeros(int(rng.uniform(*gap_s) * RATE), np.float32))
    whole = np.concatenate(parts)
    return (whole + 0.001 * rng.standard_normal(len(whole))).astype(np.float32), placed
