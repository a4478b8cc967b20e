"""Who is on screen from which to which PTS: the answer about a whole file, by the names a pipeline gave its tracks.

A track has one name for all its frames, the last that was said of it: earlier frames said `unknown` only because not
enough had been seen yet. Spans are half-open, in the source's own time; one ends where a subject was not seen for
GAP_NS.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from serving.frames import AlignedFrame
from serving.streams.outputs import TextSink
from serving.types import NamedDetections

GAP_NS = 2_000_000_000
Span = list[int]


@dataclass(slots=True)
class _Seen:
    """One track (or one name, of boxes that nobody tracked) in one epoch."""

    name: str
    track: int
    spans: list[Span] = field(default_factory=list)

    def at(self, pts_ns: int, until_ns: int) -> None:
        if self.spans and pts_ns - self.spans[-1][1] <= GAP_NS:
            self.spans[-1][1] = until_ns
        else:
            self.spans.append([pts_ns, until_ns])


class Presence:
    """Takes shown frames (a sink of a source), writes one JSON document at the end."""

    def __init__(self, source_id: str, file: TextSink) -> None:
        self._source_id, self._file = source_id, file
        self._seen: dict[tuple[int, str, str | int], _Seen] = {}
        self._last: tuple[int, int] | None = None
        self._step_ns = 40_000_000

    def write(self, shown: AlignedFrame) -> None:
        """Names of the boxes that were measured on this frame."""
        frame = shown.frame
        if self._last is not None and self._last[0] == frame.epoch:
            self._step_ns = max(1, frame.pts_ns - self._last[1])
        self._last = frame.epoch, frame.pts_ns
        for overlay in shown.overlays:
            found = overlay.outcome.result.result if overlay.outcome and overlay.outcome.result else None
            if not isinstance(found, NamedDetections):
                continue
            ids = found.tracker_id.tolist() if found.tracker_id is not None else [-1] * len(found)
            for name, track in zip(found.names, ids, strict=True):
                key = (frame.epoch, overlay.pipeline, track if track >= 0 else name)
                seen = self._seen.setdefault(key, _Seen(name, track))
                seen.name = name
                seen.at(frame.pts_ns, frame.pts_ns + self._step_ns)

    def close(self) -> None:
        """Write `{source_id, people: [{name, epoch, pipeline, tracks, spans: [{from_pts_ns, to_pts_ns}]}]}`."""
        document = {"source_id": self._source_id, "people": list(self._people())}
        self._file.write(json.dumps(document, indent=1) + "\n")

    def _people(self) -> Iterator[dict[str, Any]]:
        """Tracks of one name together; unknown ones apart, one a track."""
        grouped: dict[tuple[int, str, str, int], list[_Seen]] = {}
        for (epoch, pipeline, _), seen in self._seen.items():
            if seen.name:
                alone = seen.track if seen.name == "unknown" else -1
                grouped.setdefault((epoch, pipeline, seen.name, alone), []).append(seen)
        for (epoch, pipeline, name, _), tracks in sorted(grouped.items()):
            spans = _joined([span for seen in tracks for span in seen.spans])
            yield {
                "name": name, "epoch": epoch, "pipeline": pipeline,
                "tracks": sorted(seen.track for seen in tracks if seen.track >= 0),
                "spans": [{"from_pts_ns": start, "to_pts_ns": end} for start, end in spans],
            }  # fmt: skip


def _joined(spans: list[Span]) -> list[Span]:
    """Spans in order, those that touch or lie within GAP_NS made one."""
    joined: list[Span] = []
    for start, end in sorted(spans):
        if joined and start - joined[-1][1] <= GAP_NS:
            joined[-1][1] = max(joined[-1][1], end)
        else:
            joined.append([start, end])
    return joined
