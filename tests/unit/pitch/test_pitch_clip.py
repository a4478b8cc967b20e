"""A moving camera over the whole pitch with exact truth, and photos that show no pitch: the floors of docs/pitch.md."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from evaluation.metrics.homography import score_maps
from models.importers.manifest import read_manifest
from models.importers.package import fetch
from serving.config import load_settings
from serving.pitch import find_pitch
from serving.pitch.track import MapFilter
from serving.testing.pitch_scene import Scene, sweep

SIZE, FRAMES = (960, 540), 24


@pytest.mark.long
def test_a_sweep_over_the_pitch_is_mapped_within_half_a_metre_and_never_wrongly() -> None:
    maps, scene, found, truth = MapFilter(), Scene(seed=9, noise=3), [], []
    for camera, moment in sweep(FRAMES, fps=6, size=SIZE):
        picture, pts_ns = scene.draw(camera, moment), round(moment * 1e9)
        own = find_pitch(picture, near=maps.ahead(pts_ns))
        found.append(maps.update(own, pts_ns, picture)[0].to_metres)
        truth.append(camera.to_metres)
    scores = score_maps(found, truth, SIZE)
    assert scores.wrong == 0, scores
    assert scores.known >= 0.8, scores
    assert scores.median_m < 0.5, scores


@pytest.mark.long
@pytest.mark.needs("opencv-doc")
def test_no_photo_without_a_pitch_gets_a_map() -> None:
    package = read_manifest()["opencv-doc"]
    fetched = fetch(package, load_settings().settings.cache_dir, lambda _: None)
    photos = [fetched.path(name) for name in package.files if name.endswith((".jpg", ".png"))]
    assert len(photos) > 30
    for path in photos:
        picture = cv2.imread(str(path))
        assert picture is not None
        assert not find_pitch(np.ascontiguousarray(picture[:, :, ::-1], np.uint8)).known, path.name
