"""Two pictures of one painted wall and the true homography between them, as OpenCV's documentation package ships
them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from models.importers.manifest import read_manifest
from models.importers.package import Progress, fetch
from serving.errors import ImportFailed

_DATA = "examples/data/"
FILES = {
    "graf1.png": "1504b769303c7bde00fa578eeaad3c68e02aceabeb1242e556f1f8d19e4bdea5",
    "graf3.png": "492e0e96f21748d093e1a29f4dbfd46528bd75966937e85ce7c8abc0f361fc15",
    "H1to3p.xml": "9cd961fef3542462153a95acad164bc0da784622034a4eaf384c9beeaa19588f",
}


def graf_pair(cache: Path, progress: Progress) -> tuple[Path, Path, npt.NDArray[np.float64]]:
    """graf1.png, graf3.png and pixels of the first -> pixels of the second, [3, 3]. Raises as importers.package.fetch.

    A folder of its own in the cache: models that take other files of this package keep theirs.
    """
    package = replace(read_manifest()["opencv-doc"], files={_DATA + name: digest for name, digest in FILES.items()})
    fetched = fetch(package, cache / "graf", progress)
    first, second, matrix = (fetched.path(_DATA + name) for name in FILES)
    storage = cv2.FileStorage(str(matrix), cv2.FILE_STORAGE_READ)
    found = storage.getNode("H13").mat()
    storage.release()
    if found is None or found.shape != (3, 3):
        raise ImportFailed(f"{matrix}: expected a 3x3 matrix named H13")
    return first, second, np.asarray(found, np.float64)
