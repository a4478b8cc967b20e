"""What a shown frame looks like: boxes by origin, trails by track, the best classes, and a banner."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from serving.draw import Trails, annotate, name_of
from serving.errors import SpecInvalid
from serving.frames import AlignedFrame, FrameResult, Overlay
from serving.records.results import OtherResult, ToldDetections
from serving.tasks import task_named
from serving.tasks.base import Draws
from serving.types import Classification, Detections, NamedDetections, PixelArray, TaskResult

NS_PER_S = 1_000_000_000
_UNREADABLE = (SpecInvalid, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
Draw = Callable[[AlignedFrame, PixelArray, str], PixelArray]  # the frame, its picture, a note for the banner


@dataclass(slots=True)
class Drawing:
    """Draws the frames of one source. threshold: boxes below it are not drawn; records keep them.

    banner: a bar at the top with source, time, frame and balance. names: a label at each box.
    """

    labels: Mapping[str, Sequence[str]]
    threshold: float = 0.2
    banner: bool = True
    names: bool = True
    _trails: dict[str, Trails] = field(default_factory=dict)
    _called: dict[str, dict[int, str]] = field(default_factory=dict)
    _epoch: int = 0

    def __call__(self, shown: AlignedFrame, rgb: PixelArray, note: str) -> PixelArray:
        """A copy of the picture (RGB uint8 [h, w, 3]) with everything on it."""
        if shown.frame.epoch != self._epoch:
            self._epoch = shown.frame.epoch
            self._trails.clear()
            self._called.clear()
        banner = self._banner(shown, note) if self.banner else ""
        for place, overlay in enumerate(shown.overlays):
            boxes, origin, called = _above(overlay, self.threshold, self._names_of(overlay))
            trails = self._trails.setdefault(overlay.pipeline, Trails())
            trails.update(shown.frame.pts_ns, boxes)
            rgb = annotate(
                rgb,
                boxes,
                labels=self.labels.get(overlay.pipeline, ()),
                called=called,
                origin=origin,
                trails=trails,
                banner=banner if place == len(shown.overlays) - 1 else "",
                names=self.names,
            )
            self._draw_task(overlay, rgb)
        return rgb

    def _names_of(self, overlay: Overlay) -> Sequence[str]:
        """A name for each box to draw; filled boxes are called as their track was called last."""
        found = overlay.outcome.result.result if overlay.outcome and overlay.outcome.result else None
        known, ids = self._called.setdefault(overlay.pipeline, {}), overlay.boxes.tracker_id
        if isinstance(found, NamedDetections) and found.tracker_id is not None:
            known.update({t: n for t, n in zip(found.tracker_id.tolist(), found.names, strict=True) if t >= 0 and n})
        if ids is not None:
            return [known.get(track, "") for track in ids.tolist()] if known else ()
        same = isinstance(found, NamedDetections) and np.array_equal(found.xyxy, overlay.boxes.xyxy)
        return found.names if same and isinstance(found, NamedDetections) else ()

    def _draw_task(self, overlay: Overlay, rgb: PixelArray) -> None:
        """What only the task knows how to draw. Over the log its result comes as the fields of the document: a
        stranger's may say what no task can read, which costs the video nothing but this drawing."""
        result = overlay.outcome.result if overlay.outcome else None
        if result is None:
            return
        told = isinstance(result.result, (OtherResult, ToldDetections))
        with suppress(*(_UNREADABLE if told else ())):
            task = task_named(result.task)
            if isinstance(task, Draws):
                task.draw(rgb, _typed(result), self.labels.get(overlay.pipeline, ()), self.threshold)

    def _banner(self, shown: AlignedFrame, note: str) -> str:
        frame = shown.frame
        epoch = f"  epoch {frame.epoch}" if frame.epoch > 1 else ""
        lines = [f"{frame.source_id}  {_clock(frame.pts_ns)}{epoch}  frame {frame.frame_seq}  {note}".rstrip()]
        for overlay in shown.overlays:
            if overlay.missing and frame.analyse:
                lines.append(f"missing: {overlay.pipeline} ({overlay.outcome.reason if overlay.outcome else 'late'})")
            lines += self._classes(overlay)
        return "\n".join(lines)

    def _classes(self, overlay: Overlay) -> list[str]:
        result = overlay.outcome.result if overlay.outcome else None
        if result is None or not isinstance(result.result, Classification) or not len(result.result.class_id):
            return []
        found, labels = result.result, self.labels.get(overlay.pipeline, ())
        return [f"{overlay.pipeline}: {name_of(int(found.class_id[0]), labels)} {float(found.score[0]):.2f}"]


def _typed(result: FrameResult) -> TaskResult:
    if not isinstance(result.result, (OtherResult, ToldDetections)):
        return result.result
    return task_named(result.task).from_document(result.result.fields)


def _above(overlay: Overlay, threshold: float, names: Sequence[str]) -> tuple[Detections, PixelArray, Sequence[str]]:
    boxes = overlay.boxes
    keep = boxes.confidence >= threshold
    if bool(np.all(keep)):
        return boxes, overlay.origin, names
    ids = None if boxes.tracker_id is None else boxes.tracker_id[keep]
    kept = [name for name, shown in zip(names, keep.tolist(), strict=True) if shown] if names else ()
    return Detections(boxes.xyxy[keep], boxes.confidence[keep], boxes.class_id[keep], ids), overlay.origin[keep], kept


def _clock(pts_ns: int) -> str:
    ms = pts_ns // 1_000_000
    return f"{ms // 60_000:02d}:{ms // 1000 % 60:02d}.{ms % 1000:03d}"
