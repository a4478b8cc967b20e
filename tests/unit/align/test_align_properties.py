"""Invariants I1 to I18 of docs/alignment.md, as properties over random streams (the stateful model has I8-I11 too)."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

import itertools

from scenes import LONG, MS, QUICK, drawn, durations, early_replies, patterns, scenes, seeds, wild_replies, with_dts

from serving.align import (
    Accountant,
    CloseRule,
    LocalClaims,
    Mixer,
    MixerSettings,
    OutcomeRecord,
    PacketIn,
    PictureIn,
    SourceTimeline,
)
from serving.frames import NO_PTS, Frame, FrameRecord, LedgerKey, Origin, Outcome, Posting, SourceKind, StreamInfo
from serving.testing.coded_stream import NS_PER_S, REORDER, coded_stream, shifted
from serving.testing.sync_scene import Played, Reply, Scene, box_at, play
from serving.testing.sync_score import judge, score

INVARIANTS: dict[str, tuple[tuple[st.SearchStrategy[object], ...], Callable[..., None]]] = {}


def invariant(
    name: str, *strategies: st.SearchStrategy[object]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def keep(check: Callable[..., None]) -> Callable[..., None]:
        INVARIANTS[name] = (strategies, check)
        return check

    return keep


def run(name: str, profile: settings) -> None:
    strategies, check = INVARIANTS[name]
    profile(given(*strategies)(check))()


def no_wrong_box(scene: Scene, played: Played) -> None:
    found = score(scene, played)
    assert found.wrong == ()
    assert all(o.origin.max(initial=0) <= Origin.EXTRAPOLATED.value for s in played.shown for o in s.overlays)


@invariant("I1 a measured box implies equal keys", scenes())
def i1(scene: Scene) -> None:
    played = play(scene)
    no_wrong_box(scene, played)
    for shown in played.shown:
        for overlay in shown.overlays:
            measured = overlay.boxes.class_id[overlay.origin == Origin.MEASURED.value]
            assert set(measured.tolist()) <= {played.index_of[shown.frame.epoch, shown.frame.frame_seq]}


@invariant("I2 arrivals before the deadline may be permuted", scenes(live=True, early=True), seeds)
def i2(scene: Scene, seed: int) -> None:
    scene = replace(scene, every=1)
    again = replace(scene, replies=early_replies(seed, 200))
    assert drawn(play(scene)) == drawn(play(again))
    rivals = (Reply(50 * MS, 1), Reply(60 * MS, 2), Reply(70 * MS, None), Reply(80 * MS, 2, 2))
    order = random.Random(seed).sample(rivals, len(rivals))
    mixed = tuple(replace(r, after_ns=at.after_ns) for r, at in zip(order, rivals, strict=True))
    one, two = (play(replace(scene, replies=lambda i, p, c=c: c)) for c in (rivals, mixed))
    assert drawn(one) == drawn(two)


@invariant("I2 for files: the output depends on the input alone", scenes(live=False), seeds)
def i2_files(scene: Scene, seed: int) -> None:
    replies, rng = scene.replies, random.Random(seed)

    def later(index: int, pipeline: str) -> list[Reply]:
        return [replace(r, after_ns=rng.randrange(900 * MS)) for r in replies(index, pipeline)[:1]]

    def first(index: int, pipeline: str) -> list[Reply]:
        return list(replies(index, pipeline)[:1])

    assert drawn(play(replace(scene, replies=first))) == drawn(play(replace(scene, replies=later)))


@invariant("I3 arrivals may be repeated", scenes(), seeds)
def i3(scene: Scene, seed: int) -> None:
    replies, rng = scene.replies, random.Random(seed)

    def twice(index: int, pipeline: str) -> list[Reply]:
        out = list(replies(index, pipeline))
        return out + [r for r in out if rng.random() < 0.5 for _ in range(rng.randrange(1, 3))]

    one, two = play(scene), play(replace(scene, replies=twice))
    assert drawn(one) == drawn(two)
    for pipeline in scene.pipelines:
        assert one.accountant.total("scene", pipeline) == two.accountant.total("scene", pipeline)


@invariant("I3 frame records may be repeated", scenes(live=True, early=True), seeds)
def i3_frames(scene: Scene, seed: int) -> None:
    rng, played = random.Random(seed), play(scene)
    outputs = []
    for repeat in (0.0, 0.5):
        mixer, shown = Mixer("scene", MixerSettings(reorder_depth=scene.depth)), []
        for n, record in enumerate(played.records):
            at = record.arrival_mono_ns if isinstance(record, Frame) else 0
            shown += mixer.frame(record, at) + mixer.poll(at)
            for old in played.records[: n + 1]:
                if rng.random() < repeat / 4:
                    shown += mixer.frame(old, at)
        shown += mixer.poll(at + NS_PER_S // 2)
        outputs.append([(s.frame.frame_seq, s.out_pts_ns) for s in shown])
    assert outputs[0] == outputs[1]


@invariant(
    "I4 a constant added to raw PTS changes nothing", patterns, seeds, st.integers(-(2**40), 2**40), st.booleans()
)
def i4(pattern: str, seed: int, shift: int, live: bool) -> None:
    modulus = 1 << 33
    outputs = []
    for start in (0, shift):
        packets = coded_stream(pattern, durations(seed, 40, False), start=start, modulus=modulus)
        scene = Scene("shifted", packets, REORDER[pattern], live, modulus=modulus, replies=early_replies(seed, 100))
        outputs.append(drawn(play(scene)))
    assert outputs[0] == outputs[1] and outputs[0]


@invariant("I4 over many wraps", patterns, seeds, st.integers(0, 2**18))
def i4_many(pattern: str, seed: int, start: int) -> None:
    outputs = []
    for modulus in (None, 1 << 18):  # three seconds of 90 kHz
        packets = coded_stream(pattern, durations(seed, 120, False), start=start, modulus=modulus)
        outputs.append(drawn(play(Scene("wraps", packets, REORDER[pattern], live=False, modulus=modulus))))
    assert outputs[0] == outputs[1] and outputs[0]


@invariant("I5 the time base changes nothing", patterns, seeds)
def i5(pattern: str, seed: int) -> None:
    outputs = []
    for base, times in ((90_000, Fraction(1)), (180_000, Fraction(2)), (NS_PER_S, Fraction(100_000, 9))):
        ticks = [int(d * times) for d in durations(seed, 40, False)]
        packets = coded_stream(pattern, ticks, Fraction(1, base))
        scene = Scene("base", packets, REORDER[pattern], time_base=Fraction(1, base), replies=wild_replies(seed))
        outputs.append(drawn(play(scene)))
    assert outputs[0] == outputs[1] == outputs[2] and outputs[0]


@invariant("I6 DTS change nothing", scenes(), seeds)
def i6(scene: Scene, seed: int) -> None:
    rng = random.Random(seed)
    order = rng.sample(range(len(scene.packets)), len(scene.packets))
    expected = drawn(play(scene))
    for change in (lambda tag: None, lambda tag: rng.randrange(-(2**33), 2**33), lambda tag: order[tag] * 3000):
        assert drawn(play(with_dts(scene, change))) == expected


@invariant("I7 the wall clock changes nothing", scenes(), seeds)
def i7(scene: Scene, seed: int) -> None:
    steps = random.Random(seed)
    wall = lambda now: int(now * 1.001) + steps.choice([-3600, 0, 0, 3600]) * NS_PER_S  # noqa: E731
    assert drawn(play(replace(scene, wall=wall))) == drawn(play(scene))


@invariant("I8, I10 frames once, in order, on time; I11 the account balances", scenes())
def i8(scene: Scene) -> None:
    relaxed = replace(scene, min_measured=0.0, min_coverage=0.0, max_fill_error=1e9, version=2)
    faults = [f for f in judge(relaxed, play(scene)) if not f.startswith(("results of versions", "dropped at ingest"))]
    assert faults == []


@invariant("I8 the watermark never falls, and covers what was shown", scenes())
def i8_watermark(scene: Scene) -> None:
    played = play(scene)
    mixer = Mixer("scene", MixerSettings(live=scene.live, reorder_depth=scene.depth))
    marks = []
    for record in played.records:
        if mixer.full:
            break
        now = record.arrival_mono_ns if isinstance(record, Frame) else 0
        shown = mixer.frame(record, now) + mixer.poll(now)
        if isinstance(record, Frame) and record.frame_seq % 3:
            for pipeline in record.pipelines:
                mixer.post(Posting(record.ledger_key(pipeline), record.pts_ns, Outcome.of_result(_result(1))), now)
        shown += mixer.poll(now)
        if mixer.watermark is not None:
            marks.append(mixer.watermark)
            assert not shown or shown[-1].frame.key <= mixer.watermark
    assert marks == sorted(marks)


@invariant("I9 pictures held stay within the bound", scenes(live=True), seeds, st.integers(0, 400))
def i9(scene: Scene, seed: int, jitter_ms: int) -> None:
    rng, at = random.Random(seed), 0
    packets = []
    for packet in scene.packets:
        at = max(at, packet.arrival_ns + rng.randrange(jitter_ms * MS + 1))
        packets.append(replace(packet, arrival_ns=at))
    mixer = play(replace(scene, packets=packets)).mixer
    assert mixer is not None
    assert 0 < mixer.counters.most_held <= -(-scene.delay_ns * 60 // NS_PER_S) + scene.depth + 1


@invariant("I9 files hold what H needs and no more", scenes(live=False))
def i9_files(scene: Scene) -> None:
    mixer = play(scene).mixer
    assert mixer is not None and 0 < mixer.counters.most_held <= 60 + scene.depth + 1


@invariant("I12 equal pts_ns in different epochs never join", seeds, st.integers(2, 5), st.integers(1, 12))
def i12(seed: int, connections: int, frames: int) -> None:
    first = coded_stream("none", [3000] * frames)
    length = frames * NS_PER_S // 30 + 20 * MS
    packets = [p for n in range(connections) for p in shifted(first, n * length, n, n * frames)]
    scene = Scene("storm", packets, epochs=connections, replies=wild_replies(seed), delay_ns=NS_PER_S // 2)
    played = play(scene)
    no_wrong_box(scene, played)
    assert {s.frame.epoch for s in played.shown} == set(range(1, connections + 1))
    outs = [s.out_pts_ns for s in played.shown]
    assert all(b - a >= NS_PER_S // 30 - 1 for a, b in itertools.pairwise(outs))


def _events(played: Played, scene: Scene, seed: int) -> list[tuple[int, FrameRecord | Posting]]:
    rng, events = random.Random(seed), []
    for record in played.records:
        at = record.arrival_mono_ns if isinstance(record, Frame) else 0
        events.append((at, record))
        if isinstance(record, Frame) and record.analyse:
            for pipeline in record.pipelines:
                for _ in range(rng.choice([0, 1, 1, 2])):
                    outcome = Outcome.of_result(_result(rng.randrange(1, 3)), rng.randrange(1, 3))
                    events.append(
                        (
                            at + rng.randrange(90) * NS_PER_S,
                            Posting(record.ledger_key(pipeline), record.pts_ns, outcome),
                        )
                    )
    return sorted(events, key=lambda event: event[0])


def _result(version: int):  # type: ignore[no-untyped-def]
    from serving.frames import FrameResult
    from serving.types import Detections

    return FrameResult("m", version, "detection", Detections.empty(), "00")


def _feed(accountant: Accountant, events: list[tuple[int, FrameRecord | Posting]]) -> list[OutcomeRecord]:
    out: list[OutcomeRecord] = []
    for at, event in events:
        out += accountant.post(event, at) if isinstance(event, Posting) else accountant.frame(event, at)
        out += accountant.tick(at)
    return out


def _recorded(records: list[OutcomeRecord]) -> dict[LedgerKey, Outcome]:
    final: dict[LedgerKey, Outcome] = {}
    closed: dict[LedgerKey, Outcome] = {}
    for record in records:
        if record.key in closed:
            assert record.outcome == closed[record.key], "a closed key changed"
            continue
        final[record.key] = record.outcome
        if record.closed:
            closed[record.key] = record.outcome
    return final


@invariant("I11 the ledger balances at any cut, and a closed key never changes", scenes(), seeds)
def i11(scene: Scene, seed: int) -> None:
    events = _events(play(scene), scene, seed)
    accountant, out = Accountant(CloseRule()), []
    for event in events:
        out += _feed(accountant, [event])
        for pipeline in scene.pipelines:
            for balance in accountant.balance("scene", pipeline).values():
                assert balance.holds and balance.in_flight >= 0
    out += accountant.tick(events[-1][0] + 61 * NS_PER_S)
    final = _recorded(out)
    accepted = sum(
        isinstance(r, Frame) or r.last_seq - r.first_seq + 1 for _, r in events if not isinstance(r, Posting)
    )
    assert len(final) == accepted * len(scene.pipelines)
    assert all(accountant.total("scene", p).in_flight == 0 for p in scene.pipelines)


@invariant("I13 a crash anywhere and a replay give the same outcomes", scenes(), seeds, st.floats(0, 1))
def i13(scene: Scene, seed: int, share: float) -> None:
    """Without late closing in between, so that both count the same: after a restart the time to close counts anew."""
    events = [(0, event) for _, event in _events(play(scene), scene, seed)]
    cut = int(share * len(events))
    whole = Accountant()
    expected = _recorded(_feed(whole, events) + whole.finish("scene"))
    first, second = Accountant(), Accountant()
    before = _feed(first, events[:cut])
    for record in before:
        second.restore(record)
    after = _feed(second, events) + second.finish("scene")
    assert _recorded(before + after) == expected


@invariant("I13 what was closed before a crash stays", scenes(), seeds, st.floats(0, 1), st.floats(0, 1))
def i13_closed(scene: Scene, seed: int, cut_share: float, written_share: float) -> None:
    """The accountant dies while it writes: some records of what it closed are lost, and close again."""
    events = [(0, event) for _, event in _events(play(scene), scene, seed)]
    first, second = Accountant(), Accountant()
    before = _feed(first, events[: int(cut_share * len(events))]) + first.tick(61 * NS_PER_S)
    before = before[: int(written_share * len(before))]
    for record in before:
        second.restore(record)
    after = _feed(second, events) + second.finish("scene")
    assert len(_recorded(before + after)) == second.total("scene", "code").accepted * len(scene.pipelines)
    assert all(second.total("scene", p).holds and not second.total("scene", p).in_flight for p in scene.pipelines)


@invariant("I13 a mixer that starts again goes on where it was", scenes(live=False), seeds, st.floats(0, 1))
def i13_mixer(scene: Scene, seed: int, share: float) -> None:
    played = play(scene)
    answers = {}
    for shown in played.shown:
        for overlay in shown.overlays:
            answers[shown.frame.ledger_key(overlay.pipeline)] = overlay.outcome

    def mix(mixer: Mixer, stop: int) -> list[object]:
        out = []
        for record in played.records:
            out += mixer.frame(record, 0)
            for pipeline in record.pipelines if isinstance(record, Frame) else ():
                outcome = answers[record.ledger_key(pipeline)]
                assert isinstance(record, Frame) and outcome is not None
                mixer.post(Posting(record.ledger_key(pipeline), record.pts_ns, outcome), 0)
            out += mixer.poll(0)
            if len(out) >= stop:
                return out[:stop]
        mixer.end()
        return out + mixer.poll(0)

    settings_ = MixerSettings(live=False, reorder_depth=scene.depth)
    whole = mix(Mixer("scene", settings_), 1 << 30)
    cut = int(share * len(whole))
    first = mix(Mixer("scene", settings_), cut)
    second = Mixer("scene", settings_)
    if first:
        second.resume(first[-1].frame.key, first[-1].out_pts_ns)  # type: ignore[attr-defined]
    both = Played(shown=[*first, *mix(second, 1 << 30)])  # type: ignore[list-item]
    assert drawn(both) == drawn(Played(shown=whole))  # type: ignore[arg-type]


@invariant("I14 fill stays in the hull, within H, in its epoch", scenes())
def i14(scene: Scene) -> None:
    played = play(scene)
    by_index = {p.index: p for p in scene.packets}
    faults = [f for f in judge(scene, played) if f.startswith("box filled")]
    assert faults == []
    last: dict[tuple[int, str], np.ndarray] = {}  # type: ignore[type-arg]
    end = max(p.true_ns for p in scene.packets)
    for shown in played.shown:
        for overlay in shown.overlays:
            for box, origin in zip(overlay.boxes.xyxy, overlay.origin, strict=True):
                assert np.isfinite(box).all() and box[2] > box[0] and box[3] > box[1]
                if origin == Origin.INTERPOLATED.value:
                    hull = box_at(0)[:2].min(initial=0), box_at(end)[2]
                    assert hull[0] <= box[0] and box[2] <= hull[1] + 0.01
                    true = box_at(by_index[played.index_of[shown.frame.epoch, shown.frame.frame_seq]].true_ns)
                    assert abs(box - true).max() < 0.01  # the path is straight, so the line between is the truth
                last[shown.frame.epoch, overlay.pipeline] = box


raw_pts = st.one_of(
    st.none(),
    st.just(NO_PTS),
    st.integers(0, 20).map(lambda n: n * 3000),
    st.integers(-(2**33), 2**34),
    st.integers(-(2**62), 2**62),
)


@invariant(
    "I15 no sentinel, no hole, no falling time leaves ingest",
    st.lists(st.tuples(raw_pts, st.integers(0, 3_000), st.booleans(), st.booleans(), st.integers(0, 3)), max_size=60),
    st.sampled_from([None, 1 << 33, 1 << 31]),
    st.integers(0, 3),
    st.booleans(),
)
def i15(steps: list[tuple[int | None, int, bool, bool, int]], modulus: int | None, depth: int, live: bool) -> None:
    kind = SourceKind.LIVE if live else SourceKind.FILE
    info = StreamInfo("s", kind, Fraction(1, 90_000), 64, 48, pts_modulus=modulus, reorder_depth=depth)
    timeline = SourceTimeline("s", "me", ("p",), LocalClaims())
    now, records = 0, list(timeline.open(info, 0))
    for tag, (raw, wait_ms, corrupt, reopen, lag) in enumerate(steps):
        now += wait_ms * MS
        if reopen and tag % 7 == 0:
            records += timeline.open(info, now)
        records += timeline.packet(PacketIn(tag, raw, True), now)
        records += timeline.picture(PictureIn(raw, now, tag=max(0, tag - lag), corrupt=corrupt and tag % 5 == 0), now)
    records += timeline.close(now)
    places: dict[int, int] = {}
    pts: dict[int, int] = {}
    epoch = 0
    for record in records:
        assert record.epoch >= epoch
        epoch = record.epoch
        first, last = (record.frame_seq,) * 2 if isinstance(record, Frame) else (record.first_seq, record.last_seq)
        assert first == places.get(epoch, 0)
        places[epoch] = last + 1
        if isinstance(record, Frame):
            assert type(record.pts_ns) is int and record.pts_ns > pts.get(epoch, -1)
            assert record.raw_pts != NO_PTS and record.pts > NO_PTS
            pts[epoch] = record.pts_ns
    assert all(pts.get(e) is not None for e in places), "an epoch opens with an accepted picture"


@invariant("I16, I17 any durations, any hierarchy up to R: own frame, in order", patterns, seeds, st.booleans())
def i16(pattern: str, seed: int, live: bool) -> None:
    packets = coded_stream(pattern, durations(seed, 60, False, unit=1))
    scene = Scene("vfr", packets, REORDER[pattern], live, replies=early_replies(seed, 150), min_measured=1.0)
    scene = replace(scene, delay_ns=NS_PER_S, min_coverage=1.0)
    played = play(scene)
    assert judge(scene, played) == []
    assert [played.index_of[s.frame.epoch, s.frame.frame_seq] for s in played.shown] == list(range(60))


@invariant("I18 two pipelines never touch each other", patterns, seeds, seeds, st.booleans())
def i18(pattern: str, seed: int, other: int, live: bool) -> None:
    packets = coded_stream(pattern, durations(seed, 40, True))
    wild, outputs, sums = wild_replies(seed), [], []
    mine = wild if live else lambda i, p: wild(i, p)[:1]  # a file's frame waits for all, so rivals may still rise
    for theirs in (wild_replies(other), early_replies(other, 100), lambda i, p: (Reply(0, None),)):
        replies = lambda i, p, theirs=theirs: (mine if p == "code" else theirs)(i, p) or (Reply(0, None),)  # noqa: E731
        played = play(Scene("two", packets, REORDER[pattern], live, pipelines=("code", "other"), replies=replies))
        outputs.append([(*s[:4], s[4][0]) for s in drawn(played)])  # type: ignore[index]
        sums.append(played.accountant.total("scene", "code"))
    assert outputs[0] == outputs[1] == outputs[2] and outputs[0]
    assert sums[0] == sums[1] == sums[2]


@pytest.mark.parametrize("name", INVARIANTS)
def test_quick(name: str) -> None:
    run(name, QUICK)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", INVARIANTS)
def test_long(name: str) -> None:
    run(name, LONG)


def test_every_invariant_has_a_property() -> None:
    words = " ".join(INVARIANTS).replace(",", " ").split()
    assert {f"I{n}" for n in range(1, 19)} <= set(words)
