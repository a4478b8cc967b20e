"""The `digits` checkpoint: trained here in seconds, seeded, from scikit-learn's digits; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from models.importers.package import Fetched, Progress
from models.importers.recipe import ImportedModel, Recipe, run
from serving.errors import ImportFailed

AT_LEAST = 0.97
_MODELS = Path(__file__).resolve().parents[1]
_CODE = (Path(__file__), _MODELS / "train" / "digits.py", _MODELS / "architectures" / "digits_net.py")


def bring(cache: Path, progress: Progress) -> ImportedModel:
    """Checkpoint and labelled held-out pictures of `digits`. Raises as models.importers.recipe.run."""
    return run(Recipe("digits", (), _CODE, _build), cache, progress)


def _build(packages: Mapping[str, Fetched], out: Path, progress: Progress) -> None:
    from models.train import digits

    progress("training digits (a few seconds)")
    data = digits.load()
    checkpoint, accuracy = digits.train(data)
    if accuracy < AT_LEAST:
        raise ImportFailed(f"digits: held-out accuracy expected at least {AT_LEAST}, got {accuracy:.4f}")
    progress(f"digits: held-out accuracy {accuracy:.4f}")
    (out / "checkpoint.pth").write_bytes(checkpoint)
    digits.write_samples(data, out / "samples")
