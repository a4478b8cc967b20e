"""Where boxes stand on the pitch, and a pipeline's map over a video: filtered, with the places told again by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.draw import Colour, colour_of_box
from serving.errors import ServingError
from serving.pitch.draw import draw_map
from serving.pitch.model import Matrix, Pitch, metres_of
from serving.pitch.track import MapFilter
from serving.tasks.base import Infer, Session
from serving.tasks.homography import TASK, Homography, hinted, moved_map
from serving.types import Detections, FloatArray, InferRequest, InferResponse, PixelArray

NEAR_M = 3.0  # so far beside the lines a place still counts as on the pitch


def places_of(matrix: Matrix | None, xyxy: FloatArray, pitch: Pitch) -> list[dict[str, Any] | None]:
    """`{x_m, y_m, on_pitch}` of the middle of each box's lower edge; None where it has no place: no map, or above the
    horizon."""
    if matrix is None or not len(xyxy):
        return [None] * len(xyxy)
    feet = np.stack([(xyxy[:, 0] + xyxy[:, 2]) / 2, xyxy[:, 3]], axis=1).astype(np.float64)
    metres = metres_of(matrix, feet)
    inside: npt.NDArray[np.bool_] = (metres >= -NEAR_M) & (metres <= [pitch.length + NEAR_M, pitch.width + NEAR_M])
    far: npt.NDArray[np.bool_] = ~np.isfinite(metres).all(axis=1) | (np.abs(np.nan_to_num(metres)) > 1000).any(axis=1)
    return [
        None if gone else {"x_m": round(x, 2), "y_m": round(y, 2), "on_pitch": bool(here)}
        for (x, y), here, gone in zip(metres.tolist(), np.asarray(inside.all(axis=1)), far, strict=True)
    ]


class PlacesSession:
    """The map of a pipeline's `pitch` steps over one timeline. then: a session that sees the result after it."""

    def __init__(self, steps: Sequence[str], then: Session) -> None:
        self._then = then
        self._filters = {step: MapFilter() for step in steps}

    def ask(self, request: InferRequest, infer: Infer, pts_ns: int) -> InferResponse | ServingError:
        """See `serving.tasks.base.ShapesRequests`: the first step's map goes along as a hint."""
        return infer([hinted(request, next(iter(self._filters.values())), pts_ns)])[0]

    def update(self, result: Any, pts_ns: int, picture: PixelArray) -> Any:
        """See `serving.tasks.base.Session.update`; of a pipeline's result."""
        whole, joined = dict(result.whole), list(result.joined)
        for step, maps in self._filters.items():
            if step not in whole:
                continue
            told = TASK.from_document(whole[step])
            found, held_ns = maps.update(told.field, pts_ns, picture)
            now = Homography.of(found, told.pitch, held_ns)
            whole[step] = TASK.to_document(now, ())
            joined = placed(joined, step, now, result)
        return self._then.update(replace(result, whole=whole, joined=tuple(joined)), pts_ns, picture)


def placed(
    joined: Sequence[Mapping[str, Any]], step: str, told: Homography, boxes: Detections
) -> list[Mapping[str, Any]]:
    """Rows with the places that a map gives them, in place of those they had."""
    places = places_of(told.matrix, boxes.xyxy, told.pitch)
    bare = [{name: value for name, value in row.items() if name != step} for row in joined]
    return [row if place is None else {**row, step: place} for row, place in zip(bare, places, strict=True)]


def moved_whole(whole: Mapping[str, Any], scale: float, offset: tuple[float, float]) -> dict[str, Any]:
    """The maps among a pipeline's findings, from pixels `place * scale + offset`."""
    return {
        name: {**told, "homography": moved_map(np.array(told["homography"]), scale, offset).tolist()}
        if _map(told)
        else told
        for name, told in whole.items()
    }


def _map(told: Any) -> bool:
    return isinstance(told, Mapping) and told.get("homography") is not None


def draw_places(
    rgb: PixelArray, whole: Mapping[str, Any], joined: Sequence[Mapping[str, Any]], boxes: Detections
) -> None:
    """A small map for the first finding that is one, with the boxes' places in the colours of their tracks."""
    step = next((name for name, told in whole.items() if isinstance(told, Mapping) and "homography" in told), None)
    if step is None:
        return
    told = TASK.from_document(whole[step])
    found = [
        (row[step], colour_of_box(boxes, n)) for n, row in enumerate(joined) if step in row and row[step]["on_pitch"]
    ]
    places = np.array([[p["x_m"], p["y_m"]] for p, _ in found], np.float64).reshape(-1, 2)
    colours: list[Colour] = [colour for _, colour in found]
    draw_map(rgb, told.pitch, told.matrix, places, colours, held=told.held_ns > 0)
