"""Mutants of the join: results find their frame by something else than (source_id, epoch, pts_ns)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from serving.align import Joined, Mixer, MixerSettings, ticks_to_ns
from serving.align.epoch_mix import EpochMix
from serving.frames import Frame, Posting
from serving.testing.coded_stream import CodedPacket
from serving.testing.sync_scene import Parts, Wall

NS_PER_MS = 1_000_000


class _LooseEpoch(EpochMix):
    """Joins by a key made from the PTS alone, whatever the ledger key says."""

    key_of: Callable[[int], int] = staticmethod(lambda pts_ns: pts_ns)

    def join(self, posting: Posting) -> Joined:
        return Joined.NO_PICTURE if self._named(posting) is None else Joined.WAITING

    def put(self, posting: Posting) -> None:
        pts_ns = self._named(posting)
        assert pts_ns is not None
        super().put(replace(posting, pts_ns=pts_ns))

    def _named(self, posting: Posting) -> int | None:
        key = posting.pts_ns
        return next((e.frame.pts_ns for e in self.waiting if self.key_of(e.frame.pts_ns) == key), None)


class _LooseMixer(Mixer):
    epoch_class = _LooseEpoch


class _MillisecondEpoch(_LooseEpoch):
    key_of = staticmethod(lambda pts_ns: pts_ns // NS_PER_MS)


class _MillisecondMixer(Mixer):
    epoch_class = _MillisecondEpoch


class _NewestMixer(_LooseMixer):
    """What arrives is drawn on the frame that came in last."""

    def post(self, posting: Posting, now_ns: int) -> Joined:
        if self._epochs and self._epochs[-1].waiting:
            newest = self._epochs[-1].waiting[-1].frame
            posting = replace(posting, key=newest.ledger_key(posting.key.pipeline), pts_ns=newest.pts_ns)
        return super().post(posting, now_ns)


class _LateOnNewestMixer(Mixer):
    """A result whose frame is gone is drawn on the frame that came in last."""

    def _join(self, epoch: EpochMix, posting: Posting) -> Joined:
        if epoch.join(posting) is Joined.SHOWN and epoch.waiting:
            newest = epoch.waiting[-1].frame
            posting = replace(posting, key=newest.ledger_key(posting.key.pipeline), pts_ns=newest.pts_ns)
        return super()._join(epoch, posting)


class _NoEpochMixer(_LooseMixer):
    """The newest epoch is asked first, whichever the result is of."""

    def post(self, posting: Posting, now_ns: int) -> Joined:
        for epoch in reversed(self._epochs):
            if epoch.join(posting) is Joined.WAITING:
                epoch.put(posting)
                return Joined.WAITING
        return Joined.NO_PICTURE


class _OnePipelineEpoch(EpochMix):
    """Outcomes are kept by frame, and the last pipeline to answer owns it."""

    def put(self, posting: Posting) -> None:
        assert posting.pts_ns is not None
        entry = self._by_pts[posting.pts_ns]
        entry.outcomes = dict.fromkeys(entry.frame.pipelines, posting.outcome)
        entry.later.clear()


class _OnePipelineMixer(Mixer):
    epoch_class = _OnePipelineEpoch


def _mixer(kind: type[Mixer]) -> Callable[[str, MixerSettings, Wall], Mixer]:
    return lambda source_id, settings, wall: kind(source_id, settings)


def _dts_label(frame: Frame, packet: CodedPacket, packets: Sequence[CodedPacket]) -> int | None:
    first = packets[0].raw_pts
    if packet.raw_dts is None or first is None:
        return None
    return ticks_to_ns(packet.raw_dts - first, frame.time_base)


def _packet_order_label(frame: Frame, packet: CodedPacket, packets: Sequence[CodedPacket]) -> int | None:
    raw, first = packets[packet.index].raw_pts, packets[0].raw_pts
    return None if raw is None or first is None else ticks_to_ns(raw - first, frame.time_base)


def _rounded_ms(frame: Frame, packet: CodedPacket, packets: Sequence[CodedPacket]) -> int | None:
    return round(frame.pts_ns / NS_PER_MS)


def _float_label(frame: Frame, packet: CodedPacket, packets: Sequence[CodedPacket]) -> int | None:
    return int(float(np.float32(frame.pts_ns / 1e9)) * 1e9)


DTS = Parts(mixer=_mixer(_LooseMixer), label=_dts_label)
PACKET_ORDER = Parts(mixer=_mixer(_LooseMixer), label=_packet_order_label)
ARRIVAL = Parts(mixer=_mixer(_NewestMixer))
MILLISECONDS = Parts(mixer=_mixer(_MillisecondMixer), label=_rounded_ms)
FLOAT_SECONDS = Parts(mixer=_mixer(_LooseMixer), label=_float_label)
NO_EPOCH = Parts(mixer=_mixer(_NoEpochMixer))
LATE_ON_NEWEST = Parts(mixer=_mixer(_LateOnNewestMixer))
ONE_PIPELINE = Parts(mixer=_mixer(_OnePipelineMixer))
