"""pitch: the map of a football pitch in the picture (serving/pitch), and where the boxes of a detector stand on it.

options: `length`, `width` in metres. `of: image` gives the map, `of` an `infer` step with boxes the map and for each
box the place of its foot point, `{x_m, y_m, on_pitch}`. A map that is not known places nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from serving.errors import ServingError
from serving.pipelines.items import Failed, Item, Tools
from serving.pipelines.plan import Plan, options_of
from serving.pitch import Pitch, find_pitch
from serving.spec_steps import IMAGE, StepSpec
from serving.tasks.homography import TASK, Homography, moved_map, near_of
from serving.tasks.pitch_places import places_of
from serving.types import Detections, PixelArray


class PitchOptions(BaseModel):
    """Between the lines' middles; the laws of the game allow 90 to 120 by 45 to 90."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    length: float = Field(105.0, ge=90, le=120)
    width: float = Field(68.0, ge=45, le=90)


class PitchKind:
    """See the module."""

    def check(self, step: StepSpec, plan: Plan) -> None:
        """On the picture, or on boxes of the whole picture."""
        options_of(PitchOptions, plan.name, step)
        source = plan.source(step)
        if source is not None and not (source.do == "infer" and plan.parts[source.name].boxes and source.of == IMAGE):
            raise plan.wrong(step, f"of: {source.name} gives no boxes of the whole picture", hint="or `of: image`")

    def run(self, step: StepSpec, items: Sequence[Item], tools: Tools) -> list[Item | Failed]:
        """A map for each picture, then one item for each box."""
        options = options_of(PitchOptions, "", step)
        return [found for item in items for found in _of_picture(item, Pitch(options.length, options.width), tools)]

    def tell(self, step: StepSpec, item: Item, tools: Tools) -> dict[str, Any] | None:
        """The map as task homography tells it; a box's place."""
        if isinstance(item.value, Homography):
            return TASK.to_document(item.value, ())
        place: Mapping[str, Any] | None = item.value
        return dict(place) if place is not None else None


def _of_picture(item: Item, pitch: Pitch, tools: Tools) -> list[Item | Failed]:
    parameters = tools.parameters[item.request]
    try:
        near = near_of(parameters.get("near"))
    except ServingError as error:
        return [Failed(item.request, item.path, error)]
    boxes = item.value if isinstance(item.value, Detections) else None
    pixels, (left, top) = _pixels(item, tools)
    shifted = None if near is None else moved_map(near, 1.0, (-left, -top))
    found = TASK.move(Homography.of(find_pitch(pixels, pitch, shifted), pitch), 1.0, (left, top))
    assert isinstance(found, Homography)
    whole = replace(item, value=found, path=())
    if boxes is None:
        return [whole]
    places = places_of(found.matrix, boxes.xyxy, pitch)
    return [whole, *(replace(item, value=place, path=(n,), xyxy=boxes.xyxy[n]) for n, place in enumerate(places))]


def _pixels(item: Item, tools: Tools) -> tuple[PixelArray, tuple[float, float]]:
    """The pixels to look at and their corner in the picture: the request's roi, where it has one."""
    if isinstance(item.value, np.ndarray):
        return item.value, item.offset or (0.0, 0.0)
    return tools.parts[item.request]


KIND = PitchKind()
