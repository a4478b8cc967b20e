"""A model of the live mixer and the accountant, driven at random: every step is compared with plain dictionaries."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

sys.path.insert(0, str(Path(__file__).parent))

from scenes import LONG, QUICK

from serving.align import Accountant, CloseRule, Mixer, MixerSettings, OutcomeRecord, merge
from serving.frames import (
    AlignedFrame,
    DeadReason,
    DroppedRun,
    DropReason,
    Frame,
    FrameResult,
    LedgerKey,
    Origin,
    Outcome,
    Posting,
)
from serving.types import Detections

MS = 1_000_000
S = 1000 * MS
PIPELINES = ("a", "b")


class MixerModel(RuleBasedStateMachine):
    """Frames, drops, reconnects, outcomes early, late, twice, wrong; time in steps; polls."""

    @initialize(delay_ms=st.sampled_from([100, 250, 500]), depth=st.integers(0, 2))
    def begin(self, delay_ms: int, depth: int) -> None:
        self.settings = MixerSettings(delay_ns=delay_ms * MS, reorder_depth=depth)
        self.mixer = Mixer("s", self.settings)
        self.accountant = Accountant(CloseRule(self.settings.delay_ns))
        self.now = self.epoch = self.seq = self.pts = 0
        self.frames: dict[tuple[int, int], Frame] = {}
        self.best: dict[LedgerKey, Outcome] = {}
        self.shown: list[AlignedFrame] = []
        self.recorded: dict[LedgerKey, OutcomeRecord] = {}
        self.accepted = 0
        self.reconnect()

    @rule()
    def reconnect(self) -> None:
        self.epoch, self.seq, self.pts = self.epoch + 1, 0, 0
        self.picture(40, True, 0)

    @rule(step_ms=st.integers(1, 300), analyse=st.booleans(), jitter_ms=st.integers(0, 60))
    def picture(self, step_ms: int, analyse: bool, jitter_ms: int) -> None:
        """A frame comes in, paced by its PTS with some jitter, never more than 60 a second."""
        step_ms = max(step_ms, 17)
        self.pass_time(step_ms + jitter_ms)
        self.pts += step_ms * MS if self.seq else 0
        frame = Frame(
            "s", self.epoch, self.seq, self.pts, self.pts, Fraction(1, S), PIPELINES, self.now, analyse=analyse
        )
        self.frames[self.epoch, self.seq] = frame
        self.accept(frame, 1)

    @rule(run=st.integers(1, 4), reason=st.sampled_from([DropReason.NO_PTS, DropReason.DECODE_ERROR]))
    def dropped(self, run: int, reason: DropReason) -> None:
        self.accept(DroppedRun("s", self.epoch, self.seq, self.seq + run - 1, reason, PIPELINES), run)

    def accept(self, record: Frame | DroppedRun, places: int) -> None:
        self.show(self.mixer.frame(record, self.now))
        self.record(self.accountant.frame(record, self.now))
        self.seq, self.accepted = self.seq + places, self.accepted + places
        self.show(self.mixer.poll(self.now))

    @rule(ms=st.integers(0, 400))
    def pass_time(self, ms: int) -> None:
        """Time passes, and the mixer is polled whenever it asks to be."""
        end = self.now + ms * MS
        while (due := self.mixer.next_due_ns) is not None and due <= end:
            self.now = max(self.now, due)
            self.show(self.mixer.poll(self.now))
        self.now = end
        self.record(self.accountant.tick(self.now))

    @precondition(lambda self: self.frames)
    @rule(data=st.data(), kind=st.sampled_from(["result", "result", "drop", "dead"]), rank=st.integers(1, 3))
    def outcome(self, data: st.DataObject, kind: str, rank: int) -> None:
        frame = data.draw(st.sampled_from(list(self.frames.values())[-12:]))
        if not frame.analyse:
            return
        pipeline = data.draw(st.sampled_from(PIPELINES))
        posting = Posting(frame.ledger_key(pipeline), frame.pts_ns, made(kind, rank, frame))
        for _ in range(data.draw(st.integers(1, 2))):
            self.mixer.post(posting, self.now)
            self.record(self.accountant.post(posting, self.now))
        if (frame.epoch, frame.frame_seq) not in {(s.frame.epoch, s.frame.frame_seq) for s in self.shown}:
            self.best[posting.key] = merge(self.best.get(posting.key), posting.outcome)

    @precondition(lambda self: self.frames)
    @rule(data=st.data(), pts=st.integers(0, 10**10))
    def forged(self, data: st.DataObject, pts: int) -> None:
        """A result whose PTS is another frame's is drawn nowhere and counts nowhere."""
        frame = data.draw(st.sampled_from(list(self.frames.values())))
        other = data.draw(st.sampled_from(list(self.frames.values())))
        wrong = other.pts_ns if other.pts_ns != frame.pts_ns else pts + 1
        if wrong == frame.pts_ns:
            return
        posting = Posting(frame.ledger_key("a"), wrong, made("result", 9, frame))
        self.mixer.post(posting, self.now)
        assert self.accountant.post(posting, self.now) == []

    def show(self, frames: list[AlignedFrame]) -> None:
        for shown in frames:
            self.shown.append(shown)
            for overlay in shown.overlays:
                self.check_overlay(shown, overlay)

    def check_overlay(self, shown: AlignedFrame, overlay) -> None:  # type: ignore[no-untyped-def]
        key = shown.frame.ledger_key(overlay.pipeline)
        if shown.frame.analyse:
            assert overlay.outcome == self.best.get(key), "what is shown is the merge of what had come"
        measured = overlay.boxes.class_id[overlay.origin == Origin.MEASURED.value]
        assert set(measured.tolist()) <= {shown.frame.frame_seq}

    def record(self, records: list[OutcomeRecord]) -> None:
        for record in records:
            known = self.recorded.get(record.key)
            assert known is None or not known.closed, "a closed key changed"
            self.recorded[record.key] = record

    @invariant()
    def shown_once_in_order_and_on_time(self) -> None:
        if not hasattr(self, "shown"):
            return
        keys = [(s.frame.epoch, s.frame.pts_ns) for s in self.shown[-30:]]
        assert keys == sorted(set(keys))
        outs = [s.out_pts_ns for s in self.shown[-30:]]
        assert outs == sorted(set(outs))
        for s in self.shown[-3:]:
            assert s.released_mono_ns <= s.frame.arrival_mono_ns + self.settings.delay_ns + 400 * MS

    @invariant()
    def bounded(self) -> None:
        if hasattr(self, "mixer"):
            assert self.mixer.held <= self.settings.bound(0)

    @invariant()
    def balanced(self) -> None:
        if not hasattr(self, "accountant"):
            return
        for pipeline in PIPELINES:
            total = self.accountant.total("s", pipeline)
            assert total.holds and total.accepted == self.accepted

    def teardown(self) -> None:
        if not hasattr(self, "mixer"):
            return
        for _ in range(3):
            self.pass_time(1000)
        assert self.mixer.held == 0
        skipped = self.mixer.counters.skipped
        assert len(self.shown) + skipped == len(self.frames)
        self.pass_time(61_000)
        assert all(self.accountant.total("s", p).in_flight == 0 for p in PIPELINES)
        assert len(self.recorded) == self.accepted * len(PIPELINES)
        assert all(record.closed for record in self.recorded.values())


def made(kind: str, rank: int, frame: Frame) -> Outcome:
    if kind == "drop":
        return Outcome.dropped([DropReason.STALE, DropReason.OVERLOAD, DropReason.MODEL_UNAVAILABLE][rank - 1], rank)
    if kind == "dead":
        return Outcome.dead_letter(list(DeadReason)[rank - 1], rank)
    x = frame.pts_ns / S * 100
    found = Detections(
        np.array([[x, 10, x + 40, 60]], np.float32),
        np.array([0.9], np.float32),
        np.array([frame.frame_seq], np.int64),
        np.array([1], np.int64),
    )
    return Outcome.of_result(FrameResult("m", rank, "detection", found, f"{rank:02}"), rank)


def test_the_mixer_and_the_accountant_agree_with_the_model() -> None:
    run_state_machine_as_test(MixerModel, settings=settings(QUICK, max_examples=60, stateful_step_count=40))


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_model_for_long() -> None:
    run_state_machine_as_test(MixerModel, settings=settings(LONG, max_examples=2000, stateful_step_count=80))
