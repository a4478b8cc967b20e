"""Train the sound classifier on made sounds and real speech, in a minute or two on one core.

    python -m models.train.sound_events --output sound_events.pth --samples samples/

The spectrogram is the network's own front end: training, checkpoint and engine share it. It is computed once a scene;
what is trained hears the windows of a scene one after the other, as a stream does, and is told which sounds go on.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.architectures.sound_events import CONTEXT, HIDDEN, RATE, WINDOW
from models.importers.manifest import read_manifest
from models.importers.package import Fetched, fetch
from models.samples.sound_scenes import Utterance, write_wav
from models.train.sound_event_scenes import LABELS, Scene, recordings, scenes, truth_text
from serving.config import load_settings
from serving.types import Array, FloatArray

SPEECH = "pocketsphinx-testdata"
EPOCHS, COUNT, BATCH, TRAINED_DB = 14, 1000, 32, (-3.0, 30.0)
JUDGED_DB, JUDGED_EACH = (20, 10, 0), 12


@dataclass(frozen=True, slots=True)
class Trained:
    """The checkpoint (torch.save bytes of a state dict) and how training went, an entry an epoch.

    loss: mean binary cross-entropy of the training windows; f1: over all (window, class) pairs of the judged scenes at
    a score of 0.5. Events are scored by the certificate.
    """

    checkpoint: bytes
    loss: tuple[float, ...]
    f1: tuple[float, ...]


def judged(speech: Sequence[Utterance], seed: int = 7) -> list[Scene]:
    """Scenes of sounds, parameters and recordings that training never sees: a dozen at each of JUDGED_DB."""
    return [s for db in JUDGED_DB for s in scenes(JUDGED_EACH, 1000 * seed + db, speech, True, (db, db))]


def windows_of_scene(samples: FloatArray) -> FloatArray:
    """float32 [t, CONTEXT + WINDOW]: one after the other, the last filled up with zeros."""
    padded = np.pad(samples, (CONTEXT, -len(samples) % WINDOW))
    starts = range(0, len(padded) - CONTEXT, WINDOW)
    return np.stack([padded[start : start + CONTEXT + WINDOW] for start in starts]).astype(np.float32)


def truth_of(scene: Scene) -> FloatArray:
    """float32 [t, classes]: 1 where an event covers the middle of a window."""
    middle = (np.arange(-(-len(scene.samples) // WINDOW)) + 0.5) * WINDOW / RATE
    truth = np.zeros((len(middle), len(LABELS)), np.float32)
    for placed in scene.placed:
        truth[(middle >= placed.begin) & (middle < placed.end), LABELS.index(placed.label)] = 1
    return truth


def training_side(data: bytes) -> FloatArray:
    """The windows of a 16-bit mono WAV at 16 kHz as training cuts them, apart from serving/preprocess/audio.py."""
    import wave

    with wave.open(io.BytesIO(data)) as file:
        if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (RATE, 1, 2):
            raise ValueError(f"expected 16-bit mono at {RATE} Hz")
        return windows_of_scene(np.frombuffer(file.readframes(file.getnframes()), "<i2") / np.float32(32768))


def train(
    speech: Fetched, *, seed: int = 7, epochs: int = EPOCHS, count: int = COUNT,
    progress: Callable[[str], None] = lambda line: None,
) -> Trained:  # fmt: skip
    """Train on the CPU, reproducibly."""
    import torch
    from torch.nn import functional

    from models.architectures.sound_events import sound_events
    from models.train.digits import _one_thread

    with torch.random.fork_rng(devices=[]), _one_thread():
        torch.manual_seed(seed)
        net = sound_events(len(LABELS))
        heard, truth = _told(net, scenes(count, seed, recordings(speech, False), False, TRAINED_DB))
        progress(f"sound_events: {count} scenes made")
        test = _told(net, judged(recordings(speech, True), seed))
        optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=1e-3)
        steps = epochs * -(-count // BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=8e-3, total_steps=steps)
        losses, scores = [], []
        for epoch in range(epochs):
            total = 0.0
            for chosen in torch.randperm(count).split(BATCH):  # type: ignore[no-untyped-call]
                optimiser.zero_grad()
                loss = functional.binary_cross_entropy_with_logits(_logits(net, heard[chosen]), truth[chosen])
                loss.backward()
                torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimiser.step()
                schedule.step()
                total += float(loss.detach()) * len(chosen)
            losses.append(total / count)
            scores.append(_f1(net, *test))
            progress(f"sound_events: epoch {epoch + 1}/{epochs}, loss {losses[-1]:.3f}, f1 {scores[-1]:.3f}")
    sink = io.BytesIO()
    torch.save(net.state_dict(), sink)
    return Trained(sink.getvalue(), tuple(losses), tuple(scores))


def _told(net: Any, made: Sequence[Scene]) -> tuple[Any, Any]:
    """What the front end hears of each scene [n, t, bands], and the truth [n, t, classes]."""
    import torch

    with torch.no_grad():
        heard = [net.heard(torch.from_numpy(windows_of_scene(as_stored(scene.samples)))) for scene in made]
    return torch.stack(heard), torch.from_numpy(np.stack([truth_of(scene) for scene in made]))


def as_stored(samples: FloatArray) -> FloatArray:
    """As 16-bit files bring them."""
    return (np.round(samples * 32767) / 32768).astype(np.float32)


def _logits(net: Any, heard: Any) -> Any:
    """Of all windows, the state of each from the one before: [n, t, classes]."""
    import torch

    entering = net.inner(heard.flatten(0, 1)).unflatten(0, heard.shape[:2])
    state, states = torch.zeros(len(heard), HIDDEN), []
    for place in range(heard.shape[1]):
        state = net.step(entering[:, place], state)
        states.append(state)
    return net.head(torch.stack(states, dim=1))


def _f1(net: Any, heard: Any, truth: Any) -> float:
    """See `Trained.f1`."""
    import torch

    with torch.no_grad():
        given: Array = (_logits(net, heard) >= 0).numpy()
    wanted = truth.numpy() > 0
    return float(2 * (given & wanted).sum() / (given.sum() + wanted.sum()))


def write_samples(made: Sequence[Scene], folder: Path) -> None:
    """WAV files and `labels.csv`: `begin-end:label` of every event, joined by `;`."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [("file", "label")]
    for number, scene in enumerate(made):
        name = f"scene_{number:02d}_{scene.snr_db:.0f}db.wav"
        write_wav(folder / name, scene.samples)
        rows.append((name, truth_text(scene)))
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as sink:
        csv.writer(sink, lineterminator="\n").writerows(rows)


def main() -> None:
    """Train, print the curves, write checkpoint and judged scenes."""
    options = argparse.ArgumentParser(description="train the sound classifier")
    options.add_argument("--output", type=Path, required=True, help="checkpoint to write (a state dict)")
    options.add_argument("--samples", type=Path, help="folder for judged scenes and labels.csv")
    options.add_argument("--seed", type=int, default=7)
    chosen = options.parse_args()
    speech = fetch(read_manifest()[SPEECH], load_settings().settings.cache_dir, print)
    trained = train(speech, seed=chosen.seed, progress=print)
    chosen.output.write_bytes(trained.checkpoint)
    if chosen.samples:
        write_samples(judged(recordings(speech, True), chosen.seed), chosen.samples)
    print(json.dumps({"loss": np.round(trained.loss, 4).tolist(), "f1": np.round(trained.f1, 4).tolist()}))


if __name__ == "__main__":
    main()
