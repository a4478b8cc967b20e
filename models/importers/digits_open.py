"""The `digits_open` checkpoint: knows 0 to 6, refuses the others; trained here in seconds, nothing is downloaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from models.importers.package import Fetched, Progress
from models.importers.recipe import ImportedModel, Recipe, run
from serving.errors import ImportFailed

AT_LEAST = 0.97
_MODELS = Path(__file__).resolve().parents[1]
_CODE = (
    Path(__file__),
    *(_MODELS / "train" / name for name in ("digits.py", "digits_open.py")),
    *(_MODELS / "architectures" / name for name in ("digits_net.py", "digits_open.py")),
)


def bring(cache: Path, progress: Progress) -> ImportedModel:
    """Checkpoint, held-out pictures and curves (`training.json`). Raises as models.importers.recipe.run."""
    return run(Recipe("digits_open", (), _CODE, _build), cache, progress)


def _build(packages: Mapping[str, Fetched], out: Path, progress: Progress) -> None:
    from models.train import digits, digits_open

    progress("training digits_open (a few seconds)")
    data = digits.load()
    trained = digits_open.train(data, "sigmoid")
    if trained.accuracy[-1] < AT_LEAST:
        raise ImportFailed(f"digits_open: held-out accuracy expected {AT_LEAST}, got {trained.accuracy[-1]:.4f}")
    progress(f"digits_open: held-out accuracy of the known digits {trained.accuracy[-1]:.4f}")
    (out / "checkpoint.pth").write_bytes(trained.checkpoint)
    (out / "training.json").write_text(json.dumps({"loss": trained.loss, "accuracy": trained.accuracy}), "utf-8")
    digits_open.write_samples(data, out / "samples", 128)
