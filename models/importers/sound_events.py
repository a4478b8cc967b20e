"""The `sound_events` checkpoint: trained here on made sounds and the recordings of pocketsphinx-testdata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from models.importers.package import Fetched, Progress
from models.importers.recipe import ImportedModel, Recipe, run
from serving.errors import ImportFailed

AT_LEAST, SPEECH = 0.8, "pocketsphinx-testdata"
_MODELS = Path(__file__).resolve().parents[1]
_CODE = (
    Path(__file__),
    *(_MODELS / "train" / name for name in ("sound_events.py", "sound_event_scenes.py")),
    _MODELS / "samples" / "sound_scenes.py",
    _MODELS / "architectures" / "sound_events.py",
)


def bring(cache: Path, progress: Progress) -> ImportedModel:
    """Checkpoint, judged scenes and the curves (`training.json`). Raises as models.importers.recipe.run."""
    return run(Recipe("sound_events", (SPEECH,), _CODE, _build), cache, progress)


def _build(packages: Mapping[str, Fetched], out: Path, progress: Progress) -> None:
    from models.train import sound_event_scenes, sound_events

    progress("training sound_events (a minute or two)")
    trained = sound_events.train(packages[SPEECH], progress=progress)
    if trained.f1[-1] < AT_LEAST:
        raise ImportFailed(f"sound_events: f1 on judged scenes: expected {AT_LEAST}, got {trained.f1[-1]:.4f}")
    (out / "checkpoint.pth").write_bytes(trained.checkpoint)
    (out / "training.json").write_text(json.dumps({"loss": trained.loss, "f1": trained.f1}), "utf-8")
    speech = sound_event_scenes.recordings(packages[SPEECH], judged=True)
    sound_events.write_samples(sound_events.judged(speech), out / "samples")
