"""The `digit_yolo` checkpoint: an anchor-free detector trained here on scenes of digits; nothing is downloaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from models.importers.package import Fetched, Progress
from models.importers.recipe import ImportedModel, Recipe, run
from serving.errors import ImportFailed

AT_LEAST = 0.85
_MODELS = Path(__file__).resolve().parents[1]
_CODE = (
    Path(__file__),
    *(_MODELS / "train" / name for name in ("digits.py", "digit_scenes.py", "digit_yolo.py")),
    *(_MODELS / "architectures" / name for name in ("digits_net.py", "digit_yolo.py")),
)


def bring(cache: Path, progress: Progress) -> ImportedModel:
    """Checkpoint, held-out scenes and the curves (`training.json`). Raises as models.importers.recipe.run."""
    return run(Recipe("digit_yolo", (), _CODE, _build), cache, progress)


def _build(packages: Mapping[str, Fetched], out: Path, progress: Progress) -> None:
    from models.train import digit_scenes, digit_yolo

    progress("training digit_yolo (a minute or two)")
    trained = digit_yolo.train(progress=progress)
    if trained.found[-1] < AT_LEAST:
        raise ImportFailed(f"digit_yolo: held-out digits found: expected {AT_LEAST}, got {trained.found[-1]:.4f}")
    (out / "checkpoint.pth").write_bytes(trained.checkpoint)
    (out / "training.json").write_text(json.dumps({"loss": trained.loss, "found": trained.found}), "utf-8")
    digit_scenes.write_scenes(digit_yolo.held_out(), out / "samples")
