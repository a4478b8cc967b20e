"""Mutants of the rules: one-way unwrapping, wall-clock deadlines, merge by last arrival, fill without a limit."""

from __future__ import annotations

from serving.align import Mixer, MixerSettings, SourceTimeline
from serving.align.epoch_mix import EpochMix
from serving.align.tracks import Look, Tracks
from serving.frames import AlignedFrame, FrameRecord, Posting
from serving.testing.sync_scene import Parts, Wall
from serving.types import Detections, PixelArray

FOREVER_NS = 1 << 60


class _OneWayTimeline(SourceTimeline):
    """A raw PTS below the last one has wrapped: add a turn."""

    def _unwrap(self, raw: int) -> int:
        assert self._epoch is not None
        modulus = self._info.pts_modulus
        if modulus is None:
            modulus = 1 << 33
        ref = self._epoch.ref
        return raw + -(-(ref - raw) // modulus) * modulus if raw < ref else raw


class _WallClockMixer(Mixer):
    """Reads the wall clock where it should read the monotonic one."""

    def __init__(self, source_id: str, settings: MixerSettings, wall: Wall) -> None:
        super().__init__(source_id, settings)
        self._wall = wall

    def frame(self, record: FrameRecord, now_ns: int, at_end: bool = True) -> list[AlignedFrame]:
        return super().frame(record, self._wall(now_ns), at_end)

    def poll(self, now_ns: int) -> list[AlignedFrame]:
        return super().poll(self._wall(now_ns))


class _LastArrivalEpoch(EpochMix):
    def put(self, posting: Posting) -> None:
        assert posting.pts_ns is not None
        self._by_pts[posting.pts_ns].outcomes[posting.key.pipeline] = posting.outcome


class _LastArrivalMixer(Mixer):
    epoch_class = _LastArrivalEpoch


class _EndlessTracks(Tracks):
    def unmeasured(self, pts_ns: int, h_ns: int, later: Look) -> tuple[Detections, PixelArray]:
        return super().unmeasured(pts_ns, FOREVER_NS, later)

    def measured(self, pts_ns: int, h_ns: int, found: Detections, later: Look) -> tuple[Detections, PixelArray]:
        return super().measured(pts_ns, FOREVER_NS, found, later)


class _EndlessEpoch(EpochMix):
    tracks_class = _EndlessTracks


class _EndlessFillMixer(Mixer):
    epoch_class = _EndlessEpoch


ONE_WAY_UNWRAP = Parts(timeline=_OneWayTimeline)
WALL_CLOCK = Parts(mixer=_WallClockMixer)
LAST_ARRIVAL = Parts(mixer=lambda source_id, settings, wall: _LastArrivalMixer(source_id, settings))
FILL_ACROSS_GAP = Parts(mixer=lambda source_id, settings, wall: _EndlessFillMixer(source_id, settings))
