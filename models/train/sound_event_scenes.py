"""Scenes of made sounds and real speech with exact truth, at a stated signal-to-noise ratio. Seeded; NumPy only.

Alarm, siren, knock and glass are synthesised: what they are is written below and nothing more is claimed. Every
parameter's range is cut into slices: training draws from the even ones, judging from the odd ones, so that no judged
sound has a pitch, a pace or a decay that was trained on (shards of glass are drawn freely, as noise is). Speech is cut
out of recordings (pocketsphinx-testdata); those in `JUDGED` are in no training scene.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.importers.package import Fetched
from models.samples.sound_scenes import RATE, Placed, Utterance, read_wav, utterances
from serving.types import FloatArray

LABELS = ("alarm", "siren", "knock", "glass", "speech")
SECONDS, GAP_S, SLICES = 6.0, (0.3, 1.2), 8
LENGTH = int(SECONDS * RATE)
JUDGED = ("004.wav", "005.wav", "0920.wav", "0930.wav", "goforward.raw")
FADE = 80  # 5 ms: no sound begins or ends with a click
Wave = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scene:
    """samples: float32 [96000] at 16 kHz. snr_db: RMS of each event, its own pauses included, over RMS of the noise."""

    samples: FloatArray
    placed: tuple[Placed, ...]
    snr_db: float


@dataclass(frozen=True, slots=True)
class Draw:
    """Parameters of one sound: from the even slices of each range, or, judged, from the odd ones."""

    rng: np.random.Generator
    judged: bool

    def between(self, low: float, high: float) -> float:
        """A number of the range."""
        place = 2 * int(self.rng.integers(SLICES)) + self.judged + self.rng.random()
        return float(low + (high - low) * place / (2 * SLICES))

    def octaves(self, low: float, high: float) -> float:
        """The same on a logarithmic scale."""
        return float(np.exp(self.between(np.log(low), np.log(high))))


def recordings(speech: Fetched, judged: bool) -> list[Utterance]:
    """The utterances of the recordings to judge with, or of all others."""
    chosen = [name for name in sorted(speech.package.files) if name.endswith(JUDGED) == judged]
    return [piece for name in chosen for piece in utterances(read_wav(speech.path(name)), "speech")]


def scenes(
    count: int, seed: int, speech: Sequence[Utterance], judged: bool, snr_db: tuple[float, float]
) -> list[Scene]:
    """`count` scenes, one in twelve without any event. snr_db: the range it is drawn from, evenly."""
    rng = np.random.default_rng(seed)
    made: Mapping[str, Callable[[Draw], Wave]] = {"alarm": alarm, "siren": siren, "knock": knock, "glass": glass}

    def piece(label: str) -> Utterance:
        if label == "speech":
            spoken = speech[int(rng.integers(len(speech)))]
            return spoken if judged else _stretched(spoken, rng.uniform(0.85, 1.15))
        return _trimmed(made[label](Draw(rng, judged)), label)

    def scene(number: int) -> Scene:
        names = [] if number % 12 == 11 else [str(name) for name in rng.permutation(LABELS)]
        alone = len(names) if rng.random() > 0.3 else 3  # else two tracks at once, of other classes
        tracks = [_laid(map(piece, part), rng) for part in (names[:alone], names[alone:])]
        snr = float(rng.uniform(*snr_db))
        whole = tracks[0][0] + tracks[1][0] + 10 ** (-snr / 20) * noise(rng, LENGTH)
        loudest = np.exp(rng.uniform(np.log(0.03), np.log(0.95)))
        placed = sorted((*tracks[0][1], *tracks[1][1]), key=lambda p: p.begin)
        return Scene((whole * (loudest / np.abs(whole).max())).astype(np.float32), tuple(placed), snr)

    return [scene(number) for number in range(count)]


def truth_text(scene: Scene) -> str:
    """As `labels.csv` has it: `begin-end:label` in seconds, joined by `;`."""
    return ";".join(f"{p.begin:.3f}-{p.end:.3f}:{p.label}" for p in scene.placed)


def alarm(draw: Draw) -> Wave:
    """Two to five pulses of one pitch, 1.8 to 4.2 kHz, with an overtone."""
    hz, overtone = draw.octaves(1800, 4200), draw.between(0, 0.5)
    on, off = (int(draw.between(*span) * RATE) for span in ((0.12, 0.25), (0.05, 0.15)))
    at = np.arange(on) / RATE
    pulse = _faded(np.sin(2 * np.pi * hz * at) + overtone * np.sin(4 * np.pi * hz * at))
    parts = [pulse, np.zeros(off)] * int(draw.rng.integers(2, 6))
    return np.concatenate(parts[:-1])


def siren(draw: Draw) -> Wave:
    """A pitch that goes up and down between 450 to 800 and 1000 to 1700 Hz, with overtones."""
    at = np.arange(int(draw.between(0.9, 2.4) * RATE)) / RATE
    low, high = draw.octaves(450, 800), draw.octaves(1000, 1700)
    turn = (draw.octaves(0.6, 4.0) * at + draw.rng.random()) % 1
    shape = 1 - np.abs(2 * turn - 1) if draw.rng.random() < 0.5 else 0.5 - 0.5 * np.cos(2 * np.pi * turn)
    phase = 2 * np.pi * np.cumsum(low * (high / low) ** shape) / RATE
    fall = draw.between(1.0, 2.0)
    return _faded(np.sum([np.sin(k * phase) / k**fall for k in range(1, 5)], axis=0))


def knock(draw: Draw) -> Wave:
    """Three to six dull hits: three modes that die within hundredths of a second, and a click."""
    every = int(draw.between(0.12, 0.26) * RATE)
    modes = [(draw.octaves(*hz), draw.octaves(0.012, 0.05), weight) for hz, weight in
             (((110, 330), 1.0), ((380, 900), 0.6), ((950, 2000), 0.3))]  # fmt: skip
    at = np.arange(int(0.25 * RATE)) / RATE
    hit = np.sum([w * np.exp(-at / decay) * np.sin(2 * np.pi * hz * at) for hz, decay, w in modes], axis=0)
    hit += 0.5 * np.exp(-at / 0.002) * draw.rng.standard_normal(len(at))
    hits = int(draw.rng.integers(3, 7))
    sound = np.zeros(every * (hits - 1) + len(hit))
    for number in range(hits):
        sound[number * every :][: len(hit)] += hit * draw.rng.uniform(0.6, 1.0)
    return sound


def glass(draw: Draw) -> Wave:
    """A burst of noise, then shards: 15 to 30 ringing lines of 2 to 7.5 kHz that begin within a third of a second."""
    at = np.arange(int(1.2 * RATE)) / RATE
    sound = np.exp(-at / draw.octaves(0.01, 0.04)) * draw.rng.standard_normal(len(at))
    spread = draw.between(0.15, 0.35)
    for _ in range(int(draw.rng.integers(15, 31))):
        begin = int(draw.rng.uniform(0, spread) * RATE)
        later = at[: len(at) - begin]
        hz, decay = (np.exp(draw.rng.uniform(*np.log(span))) for span in ((2000, 7500), (0.04, 0.16)))
        ring = np.exp(-later / decay) * np.sin(2 * np.pi * hz * later)
        sound[begin:] += draw.rng.uniform(0.2, 0.7) * ring
    return sound


def noise(rng: np.random.Generator, length: int) -> Wave:
    """Of RMS 1: white to pink and beyond (1 / f^a, a from 0 to 1.5), and in every second one the hum of a mains."""
    lines = np.fft.rfft(rng.standard_normal(length))
    lines[1:] *= np.arange(1, len(lines)) ** (-rng.uniform(0, 1.5) / 2)
    lines[0] = 0
    sound = _level(np.fft.irfft(lines, length))
    if rng.random() < 0.5:
        turn = 2 * np.pi * int(rng.choice([50, 60])) * np.arange(RATE // 10) / RATE
        hum = np.sum([np.sin(k * turn + rng.uniform(0, 6)) / k for k in range(1, 9)], axis=0)
        sound = sound + rng.uniform(0.2, 1.0) * np.resize(_level(hum), length)
    return _level(sound)


def _laid(pieces: Iterable[Utterance], rng: np.random.Generator) -> tuple[Wave, list[Placed]]:
    """One after the other, each event with an RMS of 1, as many as there is room for."""
    track, placed, at = np.zeros(LENGTH), [], 0
    for piece in pieces:
        at += int(rng.uniform(*GAP_S) * RATE)
        if at + len(piece.samples) > LENGTH:
            break
        event = piece.samples[piece.begin :][: piece.length]
        track[at:][: len(piece.samples)] += piece.samples / np.sqrt((event**2).mean())
        begin = at + piece.begin
        placed.append(Placed(begin / RATE, (begin + piece.length) / RATE, piece.label))
        at += len(piece.samples)
    return track, placed


def _stretched(piece: Utterance, factor: float) -> Utterance:
    """Slower or faster, and its pitch with it: a few voices stand for more."""
    places = np.arange(0, len(piece.samples) - 1, factor)
    samples = np.interp(places, np.arange(len(piece.samples)), piece.samples).astype(np.float32)
    begin = int(piece.begin / factor)
    return Utterance(samples, begin, min(int(piece.length / factor), len(samples) - begin), piece.label)


def _trimmed(sound: Wave, label: str, share: float = 0.05) -> Utterance:
    """Its event ends with the last 5 ms whose level is over `share` (-26 dB) of the loudest."""
    step = RATE // 200
    levels = np.sqrt((sound[: len(sound) // step * step].reshape(-1, step) ** 2).mean(axis=1))
    length = int(np.flatnonzero(levels > share * levels.max())[-1] + 1) * step
    return Utterance(_faded(sound).astype(np.float32), 0, length, label)


def _faded(sound: Wave) -> Wave:
    ramp = np.minimum(1, np.minimum(np.arange(1, len(sound) + 1), np.arange(len(sound), 0, -1)) / FADE)
    return np.asarray(sound * ramp)


def _level(sound: Wave) -> Wave:
    return np.asarray(sound / np.sqrt((sound**2).mean()))
