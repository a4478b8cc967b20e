"""Field homography: a view of a pitch with its markings and small map drawn in, and a photo that shows no pitch."""

from __future__ import annotations

import numpy as np

from models.importers import pitch as pitch_samples
from serving.pitch.draw import draw_map, draw_markings
from serving.pitch.model import Pitch
from tools.workloads.bench import Bench, read_rgb
from tools.workloads.row import Row, Shown

MODEL, VIEWS = "pitch_homography", ("pitch_00.jpg", "pitch_03.jpg", "messi5.jpg")


def show(bench: Bench) -> Shown:
    """Each picture with what was found, or that the map is unknown."""
    samples = pitch_samples.bring(bench.settings.cache_dir, lambda text: None).samples
    pictures, answer = [], []
    for name in VIEWS:
        found = bench.ask(MODEL, samples / name)
        matrix = None if found["homography"] is None else np.array(found["homography"])
        field, rgb = Pitch(found["pitch"]["length_m"], found["pitch"]["width_m"]), read_rgb(samples / name).copy()
        if matrix is not None:
            draw_markings(rgb, matrix, field)
        draw_map(rgb, field, matrix)
        pictures.append((f"{name}: {found['state']}", rgb))
        answer.append({"picture": name, "map": found["state"], "error": found["reprojection_error_px"],
                       "inliers": found["inliers"], "why": found.get("why", "")})  # fmt: skip
    _, figures = bench.measured(MODEL, samples / VIEWS[0])
    return Shown(pictures, {**figures, **bench.score(MODEL)}, answer)


ROW = Row(
    90, "Field homography", "A football pitch from pixels to metres by its lines; where it cannot be told, it says so.",
    (MODEL,), show,
)  # fmt: skip
