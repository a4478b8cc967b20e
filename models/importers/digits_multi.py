"""The `digits_multi` checkpoint: which digits are in a scene; trained here in two minutes, nothing is downloaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from models.importers.package import Fetched, Progress
from models.importers.recipe import ImportedModel, Recipe, run
from serving.errors import ImportFailed

AT_LEAST = 0.9
_MODELS = Path(__file__).resolve().parents[1]
_CODE = (
    Path(__file__),
    *(_MODELS / "train" / name for name in ("digits.py", "digit_scenes.py", "digit_yolo.py", "digits_multi.py")),
    _MODELS / "architectures" / "digits_multi.py",
)


def bring(cache: Path, progress: Progress) -> ImportedModel:
    """Checkpoint, held-out scenes and the curves (`training.json`). Raises as models.importers.recipe.run."""
    return run(Recipe("digits_multi", (), _CODE, _build), cache, progress)


def _build(packages: Mapping[str, Fetched], out: Path, progress: Progress) -> None:
    from models.train import digits_multi

    progress("training digits_multi (about two minutes)")
    trained = digits_multi.train(progress=progress)
    if trained.f1[-1] < AT_LEAST:
        raise ImportFailed(f"digits_multi: held-out f1: expected {AT_LEAST}, got {trained.f1[-1]:.4f}")
    (out / "checkpoint.pth").write_bytes(trained.checkpoint)
    (out / "training.json").write_text(json.dumps({"loss": trained.loss, "f1": trained.f1}), "utf-8")
    digits_multi.write_samples(digits_multi.held_out(), out / "samples")
