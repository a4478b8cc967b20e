"""The mixer: shows every frame once, in PTS order, with the boxes that belong to it (docs/alignment.md, "Mixer").

A live frame is shown at its deadline, with or without a result. A file's frame is shown when everything up to it has
an outcome and, if it has no result, when the next analysed frame within H has one too. One `Mixer` mixes one source.
It reads no clock and starts no thread: records, postings and the time are handed in.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass

from serving.align.epoch_mix import EpochMix, Joined, Waiting
from serving.align.tracks import TrackRules
from serving.frames import AlignedFrame, Frame, FrameKey, FrameRecord, Posting

NS_PER_S = 1_000_000_000
MAX_EARLY = 4096
BEHIND_NS = NS_PER_S  # beyond its deadline (D after it could have been shown), a frame is skipped for the newest


class MixerFull(RuntimeError):
    """A frame was handed to a file's or job's mixer that had no room; ask `full` first."""


@dataclass(frozen=True, slots=True)
class MixerSettings:
    """delay_ns: D. lateness_ns: L. max_fps bounds the pictures held. reorder_depth: R.

    high_threshold and fill: see `TrackRules`. For files give max_fps no less than ingest's.
    """

    live: bool = True
    delay_ns: int = NS_PER_S // 4
    lateness_ns: int = 2 * NS_PER_S
    max_fps: int = 60
    reorder_depth: int = 0
    high_threshold: float = 0.6
    fill: bool = True

    def __post_init__(self) -> None:
        if self.delay_ns < 0 or self.lateness_ns < 0 or self.max_fps < 1 or self.reorder_depth < 0:
            raise ValueError(f"MixerSettings: expected times and depth >= 0 and max_fps >= 1, got {self}")

    def bound(self, h_ns: int) -> int:
        """The most pictures held: ceil(D x max_fps) + R + 1, with H in place of D for files and jobs."""
        window = self.delay_ns if self.live else h_ns
        return -(-window * self.max_fps // NS_PER_S) + self.reorder_depth + 1


@dataclass(slots=True)
class MixerCounters:
    """What a mixer did; each is a metric."""

    released: int = 0
    released_early: int = 0  # shown before the deadline to keep the bound on pictures
    late: int = 0  # postings for frames already shown
    unjoined: int = 0  # postings for places without a picture here
    mismatched: int = 0  # postings whose PTS is not that of their frame: never drawn
    early_refused: int = 0  # postings without a frame record, beyond the bound
    repeated: int = 0  # frame records seen before
    fenced: int = 0  # frames of a lower epoch than one seen before
    jumps: int = 0
    skipped: int = 0  # frames not shown because of jumps
    most_held: int = 0


class Mixer:
    """Mixes one source. Call `poll` after every record and at `next_due_ns`."""

    epoch_class: type[EpochMix] = EpochMix

    def __init__(self, source_id: str, settings: MixerSettings | None = None) -> None:
        self.source_id = source_id
        self.settings = settings or MixerSettings()
        self.counters = MixerCounters()
        self._rules = TrackRules(self.settings.high_threshold, self.settings.fill)
        self._epochs: deque[EpochMix] = deque()
        self._early: OrderedDict[tuple[int, int], list[Posting]] = OrderedDict()
        self._early_count = 0
        self._ended = False
        self._catching_up = self._shows_backlog = False
        self._resume: FrameKey | None = None
        self._shown_epoch = 0
        self._last_out_ns: int | None = None
        self._last_arrival_ns: int | None = None
        self._nominal_ns = 40_000_000
        self._out_offset_ns = 0

    # -- what the role calls ----------------------------------------------------------------------------------------

    def resume(self, last: FrameKey, out_pts_ns: int) -> None:
        """After a restart: the last frame shown before, and its output time. Nothing up to it is shown again.

        Feed the records of the last 2 s or more once more, so that tracks are known where the output goes on.
        """
        self._resume, self._shown_epoch, self._last_out_ns = last, last.epoch, out_pts_ns
        self._out_offset_ns = out_pts_ns - last.pts_ns

    def catch_up(self) -> None:
        """After `resume`, before the records that follow it: they are little and reach to the end of the log, so they
        are shown at once, with what is known of them, instead of a jump to the newest."""
        self._shows_backlog = self._resume is not None

    def frame(self, record: FrameRecord, now_ns: int, at_end: bool = True) -> list[AlignedFrame]:
        """A record of `frames`; returns what must be shown at once to keep the bound on pictures.

        at_end: it was read at the end of the log, so its arrival tells the pace of the source.
        """
        epoch = self._epoch(record)
        if epoch is None:
            return []
        if not isinstance(record, Frame):
            epoch.last_seq = max(epoch.last_seq, record.last_seq)
            return []
        if record.frame_seq <= epoch.last_seq:
            self.counters.repeated += 1
            return []
        if self.full:
            raise MixerFull(f"mixer of {self.source_id}: {self.held} pictures held; poll it, and wait while `full`")
        epoch.add(record, now_ns)
        for posting in self._take_early(record.epoch, record.frame_seq):
            self._join(epoch, posting)
        out = self._pace(epoch, record, now_ns, at_end) if self.settings.live else []
        self.counters.most_held = max(self.counters.most_held, self.held)
        return out

    def post(self, posting: Posting, now_ns: int) -> Joined:
        """A record of `results`: what was done with it."""
        epoch = next((e for e in self._epochs if e.epoch == posting.key.epoch), None)
        if epoch is None:
            newest = self._epochs[-1].epoch if self._epochs else 0
            joined = Joined.EARLY if posting.key.epoch > newest else Joined.NO_PICTURE
            if joined is Joined.EARLY:
                self._keep_early(posting)
            else:
                self.counters.unjoined += 1
            return joined
        return self._join(epoch, posting)

    def poll(self, now_ns: int) -> list[AlignedFrame]:
        """The frames to show now, in order."""
        out: list[AlignedFrame] = []
        if self.settings.live:
            due = self.next_due_ns
            if due is not None and due > now_ns:
                return out
            if not self._shows_backlog:
                self._jump_if_behind(now_ns)
        while (entry := self._head()) is not None and self._is_due(entry, now_ns):
            if self._resume is not None and entry.frame.key <= self._resume:
                self._epochs[0].release()  # shown before the restart; what it teaches about its tracks stays
            else:
                out.append(self._release(now_ns))
        if self._epochs and self._epochs[-1].anchor.value_ns is not None:
            self._shows_backlog = False  # the end of the log was read, and what was overdue is shown
        return out

    def end(self) -> None:
        """The source's input ended: nothing more will come. Poll until `held` is 0."""
        self._ended = True

    @property
    def next_due_ns(self) -> int | None:
        """When `poll` will have something to show if nothing else comes; None if that depends on records."""
        entry = self._head()
        return self._epochs[0].deadline_ns(entry, self.settings.delay_ns) if entry and self.settings.live else None

    @property
    def resumes(self) -> bool:
        """It goes on where another one ended."""
        return self._resume is not None

    @property
    def held(self) -> int:
        """Pictures held."""
        return sum(len(epoch.waiting) for epoch in self._epochs)

    @property
    def full(self) -> bool:
        """A file's or job's mixer has no room for another picture: feed it outcomes, poll it, then go on."""
        if self.settings.live or not self.held:
            return False
        entry = self._head()
        return entry is not None and self.held >= self.settings.bound(entry.h_ns)

    @property
    def watermark(self) -> FrameKey | None:
        """W of the newest epoch; None before it has one."""
        if not self._epochs or self._epochs[-1].watermark.value_ns is None:
            return None
        return FrameKey(self.source_id, self._epochs[-1].epoch, self._epochs[-1].watermark.value_ns)

    def is_fenced(self, epoch: int) -> bool:
        """A higher epoch was seen, or shown before a restart: nothing of this one is shown."""
        newest = self._epochs[-1].epoch if self._epochs else 1
        return epoch < max(newest, self._resume.epoch if self._resume is not None else 1)

    # -- epochs and postings ----------------------------------------------------------------------------------------

    def _epoch(self, record: FrameRecord) -> EpochMix | None:
        if self.is_fenced(record.epoch):
            self.counters.fenced += isinstance(record, Frame)
            return None
        if not self._epochs or record.epoch > self._epochs[-1].epoch:
            self._epochs.append(
                self.epoch_class(record.epoch, self.settings.live, self._rules, self.settings.lateness_ns)
            )
        return self._epochs[-1]

    def _join(self, epoch: EpochMix, posting: Posting) -> Joined:
        joined = epoch.join(posting)
        if joined is Joined.WAITING:
            epoch.put(posting)
        elif joined is Joined.SHOWN:
            self.counters.late += 1
            epoch.learn_late(posting)
        elif joined is Joined.EARLY:
            self._keep_early(posting)
        elif joined is Joined.MISMATCH:
            self.counters.mismatched += 1
        else:
            self.counters.unjoined += 1
        return joined

    def _keep_early(self, posting: Posting) -> None:
        self._early.setdefault((posting.key.epoch, posting.key.frame_seq), []).append(posting)
        self._early_count += 1
        while self._early_count > MAX_EARLY:
            refused = len(self._early.popitem(last=False)[1])
            self._early_count -= refused
            self.counters.early_refused += refused

    def _take_early(self, epoch: int, seq: int) -> list[Posting]:
        found = self._early.pop((epoch, seq), None) or []
        self._early_count -= len(found)
        return found

    # -- pace (live) ------------------------------------------------------------------------------------------------

    def _pace(self, epoch: EpochMix, record: Frame, now_ns: int, at_end: bool) -> list[AlignedFrame]:
        if at_end:
            epoch.anchor.sample(now_ns, record.pts_ns)
            self.counters.jumps += self._catching_up
            self._catching_up = False
        elif epoch.anchor.value_ns is None and not self._shows_backlog:
            skipped = sum(e.skip(keep=int(e is epoch)) for e in self._epochs)
            self.counters.skipped += skipped
            self._catching_up = self._catching_up or skipped > 0
        out = []
        while self.held > self.settings.bound(0):
            entry = self._head()
            if entry is not None and self._resume is not None and entry.frame.key <= self._resume:
                self._epochs[0].release()
                continue
            deadline = self._epochs[0].deadline_ns(entry, self.settings.delay_ns) if entry else None
            early = not self._shows_backlog if deadline is None else deadline > now_ns
            self.counters.released_early += early
            out.append(self._release(now_ns))
        return out

    def _jump_if_behind(self, now_ns: int) -> None:
        entry = self._head()
        if entry is None or not self._is_behind(self._epochs[0], entry, now_ns):
            return
        newest = self._epochs[-1]
        skipped = sum(epoch.skip(keep=int(epoch is newest)) for epoch in self._epochs)
        if newest.waiting and self._is_behind(newest, newest.waiting[0], now_ns):
            newest.restart_pace()
        self.counters.jumps += skipped > 0
        self.counters.skipped += skipped

    def _is_behind(self, epoch: EpochMix, entry: Waiting, now_ns: int) -> bool:
        deadline = epoch.deadline_ns(entry, self.settings.delay_ns)
        return deadline is not None and now_ns - deadline > BEHIND_NS

    # -- release ----------------------------------------------------------------------------------------------------

    def _head(self) -> Waiting | None:
        """The next frame to show; moves on to the next epoch when one is shown to its end."""
        while len(self._epochs) > 1 and not self._epochs[0].waiting:
            self._epochs.popleft()
        return self._epochs[0].waiting[0] if self._epochs and self._epochs[0].waiting else None

    def _is_due(self, entry: Waiting, now_ns: int) -> bool:
        if not self.settings.live:
            return self._is_settled(entry)
        deadline = self._epochs[0].deadline_ns(entry, self.settings.delay_ns)
        if deadline is None:
            return len(self._epochs) > 1  # an epoch read without its pace is over
        return deadline <= now_ns

    def _is_settled(self, entry: Waiting) -> bool:
        """Files: the watermark covers the frame and what its fills wait for."""
        epoch = self._epochs[0]
        if not epoch.watermark.covers(entry.frame.pts_ns):
            return False
        wanted = {p for p in entry.frame.pipelines if not entry.has_result(p)}
        for other in epoch.waiting:
            if not wanted or other.frame.pts_ns - entry.frame.pts_ns > entry.h_ns:
                return True
            if other is entry:
                continue
            if not other.terminal:
                return False
            wanted = {p for p in wanted if not other.has_result(p)}
        over = self._ended or len(self._epochs) > 1 or len(epoch.waiting) >= self.settings.bound(entry.h_ns)
        return over or not wanted

    def _release(self, now_ns: int) -> AlignedFrame:
        epoch = self._epochs[0]
        deadline = epoch.deadline_ns(epoch.waiting[0], self.settings.delay_ns) if self.settings.live else None
        first_ns, arrival_ns = epoch.waiting[0].frame.pts_ns, epoch.first_arrival_ns
        frame, overlays = epoch.release()
        changed = epoch.epoch != self._shown_epoch
        if changed:
            self._out_offset_ns = self._continue_output(arrival_ns) - first_ns
        discontinuity = changed and self._last_out_ns is not None
        self._shown_epoch, self._last_arrival_ns = epoch.epoch, epoch.last_arrival_ns
        self._nominal_ns = epoch.nominal.ticks
        self._last_out_ns = frame.pts_ns + self._out_offset_ns
        self.counters.released += 1
        return AlignedFrame(frame, self._last_out_ns, overlays, now_ns, deadline, discontinuity)

    def _continue_output(self, first_arrival_ns: int) -> int:
        """Output time of a new epoch's first frame: the last one, plus the nominal duration or the gap if longer."""
        if self._last_out_ns is None:
            return 0
        before_ns = self._last_arrival_ns if self.settings.live else None  # None also of the process before this one
        gap = first_arrival_ns - before_ns if before_ns is not None else 0
        return self._last_out_ns + max(self._nominal_ns, gap)
