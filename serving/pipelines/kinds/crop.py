"""crop: the part of the picture in each box, or the aligned chip that an embedder was trained on.

options: `margin` (parts of the box's sides added all round), `square`; `quality: {min_side, min_sharpness, max_turn}`
measures each crop. `model` names the model the crops are made for: where its spec has `align`, faces are moved onto
that template by their landmarks, or by their boxes where the detector gives none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from serving.pipelines.items import Failed, Item, Quality, Tools
from serving.pipelines.plan import Plan, options_of
from serving.preprocess.chips import TEMPLATES, Template, box_chip, chip
from serving.spec_steps import StepSpec, WhenSpec
from serving.types import Detections, FloatArray, PixelArray


class QualityOptions(BaseModel):
    """Least shorter side of the box (source pixels), least sharpness, largest turn of a face (0 frontal, 1 profile)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    min_side: float = Field(0.0, ge=0)
    min_sharpness: float = Field(0.0, ge=0)
    max_turn: float = Field(1.0, ge=0, le=1)


class CropOptions(BaseModel):
    """See the module."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    margin: float = Field(0.0, ge=0, le=2)
    square: bool = False
    quality: QualityOptions | None = None


class Crop:
    """See the module."""

    def check(self, step: StepSpec, plan: Plan) -> None:
        """Boxes to cut out, and a template that this project knows."""
        options_of(CropOptions, plan.name, step)
        source = plan.source(step)
        if source is None or source.do != "infer" or not plan.parts[source.name].boxes:
            raise plan.wrong(step, f"of: {step.of} gives no boxes", hint="name an `infer` step with a detector")
        template = str(plan.parts[step.name].spec.options.get("align", "")) if step.name in plan.parts else ""
        if template and template not in TEMPLATES:
            raise plan.wrong(step, f"model: align: expected one of {', '.join(TEMPLATES)}, got {template!r}")

    def run(self, step: StepSpec, items: Sequence[Item], tools: Tools) -> list[Item | Failed]:
        """A crop for each box that meets `when`. Boxes outside the picture are left out: nothing is in them."""
        options = options_of(CropOptions, "", step)
        model = tools.models.get(step.name)
        template = TEMPLATES.get(str(model.bundle.spec.options.get("align", ""))) if model is not None else None
        found: list[Item | Failed] = []
        labels = tools.again.get(f"labels {step.of}", ())
        for item in items:
            boxes, picture = item.value, tools.pictures[item.request]
            for place in chosen(boxes, step.when, labels):
                xyxy, marks = boxes.xyxy[place], _landmarks(boxes, place)
                offset: tuple[float, float] | None = None
                if template is not None:
                    pixels = _aligned(picture, xyxy, marks, template)
                else:
                    pixels, offset = cut(picture, xyxy, options)
                    if not pixels.size:
                        continue
                quality = measured(pixels, xyxy, marks, options.quality) if options.quality else None
                found.append(
                    replace(item, value=pixels, path=(*item.path, place), offset=offset, xyxy=xyxy, landmarks=marks,
                            quality=quality)
                )  # fmt: skip
        return found

    def tell(self, step: StepSpec, item: Item, tools: Tools) -> dict[str, Any] | None:
        """The quality, where it is measured."""
        return item.quality.to_document() if item.quality is not None else None


def chosen(boxes: Detections, when: WhenSpec, labels: Sequence[str]) -> Iterator[int]:
    """Places of the boxes that meet the conditions; none where there are too few of them."""
    sides = np.minimum(boxes.xyxy[:, 2] - boxes.xyxy[:, 0], boxes.xyxy[:, 3] - boxes.xyxy[:, 1])
    fits = (boxes.confidence >= when.min_confidence) & (sides >= when.min_side)
    if when.labels:
        wanted = [number for number, label in enumerate(labels) if label in when.labels]
        fits &= np.isin(boxes.class_id, wanted)
    places = np.flatnonzero(fits)
    if len(places) < when.at_least:
        return iter(())
    if when.at_most:
        best = np.argsort(-boxes.confidence[places], kind="stable")[: when.at_most]
        places = np.sort(places[best])
    return iter(places.tolist())


def cut(picture: PixelArray, xyxy: FloatArray, options: CropOptions) -> tuple[PixelArray, tuple[float, float]]:
    """The box with its margin, inside the picture, and where its corner lies. Whole pixels, rounded outwards."""
    x1, y1, x2, y2 = (float(v) for v in xyxy)
    wide, high = (x2 - x1) * (1 + 2 * options.margin), (y2 - y1) * (1 + 2 * options.margin)
    if options.square:
        wide = high = max(wide, high)
    middle = ((x1 + x2) / 2, (y1 + y2) / 2)
    left, top = max(0, int(np.floor(middle[0] - wide / 2))), max(0, int(np.floor(middle[1] - high / 2)))
    right, bottom = int(np.ceil(middle[0] + wide / 2)), int(np.ceil(middle[1] + high / 2))
    return np.ascontiguousarray(picture[top : max(top, bottom), left : max(left, right)]), (float(left), float(top))


def measured(pixels: PixelArray, xyxy: FloatArray, marks: FloatArray | None, wanted: QualityOptions) -> Quality:
    """Size of the box; sharpness of the crop (mean absolute Laplacian at 64 pixels, per cent of its contrast); turn of
    a face by where its nose lies between the eyes. The blur measure is that of Pech-Pacheco et al. 2000, made
    independent of contrast and size."""
    side = float(min(xyxy[2] - xyxy[0], xyxy[3] - xyxy[1]))
    grey = cv2.resize(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), (64, 64), interpolation=cv2.INTER_AREA)
    grey = grey.astype(np.float32)
    edges = float(np.abs(cv2.Laplacian(grey, cv2.CV_32F)).mean())
    sharpness = 100.0 * edges / max(1.0, float(grey.std()))
    turn = turn_of(marks) if marks is not None else None
    problems = {
        "small": side < wanted.min_side,
        "blurred": sharpness < wanted.min_sharpness,
        "turned": turn is not None and turn > wanted.max_turn,
    }
    return Quality(side, sharpness, turn, tuple(name for name, is_so in problems.items() if is_so))


def turn_of(marks: FloatArray) -> float:
    """0: the nose lies in the middle between the eyes; 1: at one of them, or beyond. Rolling changes nothing."""
    left, right, nose = (marks[n].astype(np.float64) for n in range(3))
    across = right - left
    length = float(across @ across)
    if length <= 0:
        return 1.0
    place = float((nose - left) @ across) / length
    return min(1.0, 2.0 * abs(place - 0.5))


def _landmarks(boxes: Detections, place: int) -> FloatArray | None:
    marks = getattr(boxes, "landmarks", None)
    return None if marks is None else np.asarray(marks[place], np.float32)


def _aligned(picture: PixelArray, xyxy: FloatArray, marks: FloatArray | None, template: Template) -> PixelArray:
    if marks is None or float(np.ptp(marks, axis=0).max()) < 1e-3:  # landmarks all in one place say nothing
        return box_chip(picture, xyxy, template)
    return chip(picture, marks, template)


KIND = Crop()
