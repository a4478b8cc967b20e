"""Pictures for the pitch's map: drawn views of a pitch with their exact map, and photos that show none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from models.importers.package import Fetched, Progress
from models.importers.recipe import ImportedModel, Recipe, run
from serving.testing import pitch_scene
from serving.testing.pitch_scene import Camera, Scene

PHOTOS = (
    "messi5.jpg", "building.jpg", "home.jpg", "board.jpg", "sudoku.png", "graf1.png", "aero1.jpg", "left.jpg",
    "fruits.jpg", "basketball1.png", "basketball2.png", "leuvenA.jpg", "licenseplate_motion.jpg", "aloeL.jpg",
    "apple.jpg", "baboon.jpg", "butterfly.jpg", "chicky_512.png", "orange.jpg", "rubberwhale1.png", "smarties.png",
)  # fmt: skip
VIEWS = 12
_CODE = (Path(__file__), Path(pitch_scene.__file__))


def bring(cache: Path, progress: Progress) -> ImportedModel:
    """Samples with labels `known` and `unknown`. Raises as models.importers.recipe.run."""
    return run(Recipe("pitch_homography", ("opencv-doc",), _CODE, _build), cache, progress)


def views(count: int, seed: int = 5) -> list[tuple[Camera, Scene]]:
    """Seeded cameras and scenes: both halves and the middle, noise, blur, pale paint, shadow."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        place = (rng.uniform(38, 67), 68 + rng.uniform(18, 40), rng.uniform(12, 24))
        camera = Camera(place, (rng.uniform(10, 95), rng.uniform(24, 44)), rng.uniform(0.9, 1.8))
        scene = Scene(
            seed=number, noise=rng.uniform(1, 5), blur=rng.uniform(0.4, 1.0), paint=rng.uniform(0.75, 0.95),
            shade=float(rng.choice([0.0, 0.0, 0.35])),
        )  # fmt: skip
        found.append((camera, scene))
    return found


def _build(fetched: Mapping[str, Fetched], out: Path, progress: Progress) -> None:
    folder = out / "samples"
    folder.mkdir()
    rows = ["file,label"]
    for number, (camera, scene) in enumerate(views(VIEWS)):
        name = f"pitch_{number:02d}.jpg"
        cv2.imwrite(str(folder / name), scene.draw(camera)[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
        rows.append(f"{name},known")
    for name in PHOTOS:
        (folder / name).write_bytes(fetched["opencv-doc"].path(f"examples/data/{name}").read_bytes())
        rows.append(f"{name},unknown")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n", "utf-8")
    progress(f"{VIEWS} drawn views of a pitch, {len(PHOTOS)} photos")
