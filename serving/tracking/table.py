"""What trackers remember of their tracks, as columns, and the optimal assignment of boxes to them."""

from __future__ import annotations

from dataclasses import dataclass, field

import lap
import numpy as np
import numpy.typing as npt

from serving.tracking.motion import PERIOD_NS, Motion, Values, no_motion
from serving.types import FloatArray, IntArray

Rows = npt.NDArray[np.int64]


def _none() -> IntArray:
    return np.empty(0, np.int64)


@dataclass(slots=True)
class Table:
    """One row a track. hits: matches in a row; track_id: -1 until the track is confirmed; look: what boxes of it look
    like, unit vectors [tracks, d], zeros where nothing is known ([tracks, 0] for trackers that do not look).
    """

    class_id: IntArray = field(default_factory=_none)
    seen_ns: IntArray = field(default_factory=_none)
    hits: IntArray = field(default_factory=_none)
    track_id: IntArray = field(default_factory=_none)
    look: FloatArray = field(default_factory=lambda: np.empty((0, 0), np.float32))
    motion: Motion = field(default_factory=no_motion)
    last_ns: int = -1
    next_id: int = 1

    def __len__(self) -> int:
        return len(self.class_id)

    def step(self, pts_ns: int, who: str) -> float:
        """Periods of 1/30 s since the last call, 1 for the first. ValueError where time does not rise."""
        if pts_ns <= self.last_ns:
            raise ValueError(f"{who}.update: expected pts_ns over {self.last_ns}, got {pts_ns}")
        periods = 1.0 if self.last_ns < 0 else (pts_ns - self.last_ns) / PERIOD_NS
        self.last_ns = pts_ns
        return periods

    def seen(self, rows: Rows, pts_ns: int, confirm: int) -> None:
        """These were matched; those with `confirm` matches in a row get their id, in the order of `rows`."""
        self.seen_ns[rows] = pts_ns
        self.hits[rows] += 1
        new = rows[(self.track_id[rows] < 0) & (self.hits[rows] >= confirm)]
        self.track_id[new] = np.arange(self.next_id, self.next_id + len(new))
        self.next_id += len(new)

    def keep(self, mask: npt.NDArray[np.bool_]) -> None:
        """Drop the others."""
        if mask.all():
            return
        rows = np.flatnonzero(mask)
        self.class_id, self.seen_ns, self.hits = self.class_id[rows], self.seen_ns[rows], self.hits[rows]
        self.track_id = self.track_id[rows]
        self.look = self.look[rows]
        self.motion.keep(rows)

    def keep_alive(self, pts_ns: int, lost_s: float) -> None:
        """A track without an id must be seen in every frame; one with an id may be lost for `lost_s`."""
        gone_ns = pts_ns - self.seen_ns
        self.keep((gone_ns == 0) | ((self.track_id >= 0) & (gone_ns <= lost_s * 1e9)))

    def begin(self, class_id: IntArray, pts_ns: int, motion: Motion, look: FloatArray | None = None) -> None:
        """New tracks, seen once."""
        n = len(class_id)
        if not n:
            return
        self.look = _stacked(self.look, len(self), look, n)
        self.class_id = np.concatenate([self.class_id, class_id])
        self.seen_ns = np.concatenate([self.seen_ns, np.full(n, pts_ns, np.int64)])
        self.hits = np.concatenate([self.hits, np.ones(n, np.int64)])
        self.track_id = np.concatenate([self.track_id, np.full(n, -1, np.int64)])
        self.motion.append(motion)


def _stacked(look: FloatArray, known: int, new: FloatArray | None, n: int) -> FloatArray:
    """The looks with `n` more rows; zeros where one side has none."""
    width = max(look.shape[1], 0 if new is None else new.shape[1])
    old = look if look.shape[1] == width else np.zeros((known, width), np.float32)
    return np.concatenate([old, np.zeros((n, width), np.float32) if new is None else new])


def assign(similarity: Values | FloatArray, least: float) -> tuple[Rows, Rows]:
    """The pairs (row, column) of the greatest total similarity, without those below `least`.

    ValueError where one of them is not finite. By Jonker and Volgenant, Computing 38 (1987), in `lap`: scipy's function
    is the same, but its import takes longer than that of a whole worker.
    """
    if not similarity.size:
        return _none(), _none()
    if not np.isfinite(similarity).all():
        raise ValueError("assign: expected finite similarities")
    found, _ = lap.lapjv(-similarity, extend_cost=True, return_cost=False)
    rows = np.flatnonzero(found >= 0)
    columns: Rows = found[rows].astype(np.int64)
    good = similarity[rows, columns] >= least
    return rows[good], columns[good]
