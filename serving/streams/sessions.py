"""What pipelines remember from frame to frame: one set of sessions for each (source, epoch, pipeline).

A tracker is such a session. A new epoch begins with new ones, so that nothing is carried over a gap in the timeline.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from serving.frames import Frame
from serving.ports import Tracker
from serving.spec import ModelSpec
from serving.streams.appearance import Looks
from serving.tasks.base import Session, Stateful, Task
from serving.tasks.rules import VoteSession, has_votes
from serving.types import Detections, PixelArray, TaskResult

NewSession = Callable[[], Session]


def session_of(task: Task, spec: ModelSpec, parameters: Mapping[str, Any]) -> NewSession | None:
    """How to begin a session of this model on a stream; None where it remembers nothing: its task, or its rules."""
    if not isinstance(task, Stateful):
        return (lambda: VoteSession(spec)) if has_votes(spec) else None
    stateful: Stateful = task
    return lambda: stateful.new_session(spec, parameters)


def gives_boxes(task: Task, spec: ModelSpec) -> bool:
    """Whether a tracker can follow what the model finds."""
    return "xyxy" in {tensor.name for tensor in task.outputs(spec)}


@dataclass(frozen=True, slots=True)
class TrackerSession:
    """A tracker as a session: boxes get track ids, other results pass.

    looks: asked about each frame's boxes for a tracker that compares appearances, unless they carry one already.
    first_id: added to every id. A tracker that begins within an epoch, because another worker had the source before,
    gives no id a second time.
    """

    tracker: Tracker
    first_id: int = 0
    looks: Looks | None = None

    def update(self, result: TaskResult, pts_ns: int, picture: PixelArray) -> TaskResult:
        """See `serving.ports.Tracker.update`."""
        if not isinstance(result, Detections) or result.tracker_id is not None:
            return result  # what was followed already keeps its ids
        asked = result
        if self.looks is not None and result.appearance is None:
            asked = replace(result, appearance=self.looks(picture, result))
        ids = self.tracker.update(asked, pts_ns).tracker_id
        if self.first_id and ids is not None:
            ids = np.where(ids >= 0, ids + self.first_id, ids).astype(np.int64)
        return replace(result, tracker_id=ids)  # what else a task says of its boxes stays


class Sessions:
    """The sessions of a worker, by source and pipeline, of each source's present epoch."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], tuple[int, tuple[Session, ...]]] = {}
        self._seen: dict[tuple[str, str], tuple[int, int]] = {}  # epoch and pts_ns of the newest frame they have seen

    def of(self, frame: Frame, pipeline: str, new: Sequence[NewSession]) -> tuple[Session, ...]:
        """The sessions of this frame's epoch, made by `new` where it is the first.

        A frame that comes once more (a replay, a stranger's retry) gets some of its own: their time does not go back.
        """
        key = (frame.source_id, pipeline)
        if key in self._seen and (frame.epoch, frame.pts_ns) <= self._seen[key]:
            return tuple(make() for make in new)
        epoch, sessions = self._kept.get(key, (0, ()))
        if epoch != frame.epoch:
            sessions = tuple(make() for make in new)
            self._kept[key] = frame.epoch, sessions
        return sessions

    def saw(self, frame: Frame, pipeline: str) -> None:
        """The frame's sessions are updated with it."""
        key, place = (frame.source_id, pipeline), (frame.epoch, frame.pts_ns)
        self._seen[key] = max(place, self._seen.get(key, place))

    def forget(self, source_id: str) -> None:
        """What is remembered of a source is worth nothing any more: the next frame begins anew."""
        for key in [key for key in self._kept if key[0] == source_id]:
            del self._kept[key]
            self._seen.pop(key, None)
