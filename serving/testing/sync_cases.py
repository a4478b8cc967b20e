"""The scenes every alignment must pass, by name. Each is small, and each catches some way of getting time wrong."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

from serving.align.unwrap import FLV_MODULUS, MPEG_TS_MODULUS
from serving.frames import DropReason
from serving.testing.coded_stream import NS_PER_S, CodedPacket, coded_stream, shifted
from serving.testing.sync_scene import Reply, Scene, steady

NEAR_WRAP = MPEG_TS_MODULUS - 450_000  # 5 s before the 33-bit wrap
MS = 1_000_000


def _pattern(pattern: str, depth: int) -> Callable[[], Scene]:
    return lambda: Scene(pattern, coded_stream(pattern), depth=depth)


def _lognormal() -> Scene:
    """Latencies of docs/alignment.md: median 80 ms, sigma 0.35, 1 % with 400 ms more. Drawn at D = 500 ms."""
    rng = random.Random(7)
    late = {i: int(rng.lognormvariate(0, 0.35) * 80 * MS) + 400 * MS * (rng.random() < 0.01) for i in range(300)}
    return Scene("latency", coded_stream(), delay_ns=500 * MS, replies=lambda i, p: (Reply(late[i]),))


def _late_results() -> Scene:
    """Every 25th result comes after its frame was shown."""
    replies = lambda i, p: (Reply(400 * MS if i % 25 == 24 else 80 * MS),)  # noqa: E731
    return Scene("late_results", coded_stream(), replies=replies)


def _variable_rate() -> Scene:
    rng = random.Random(3)
    return Scene("variable_rate", coded_stream("ibbp", [rng.randrange(1500, 9000) for _ in range(200)]), depth=1)


def _ntsc() -> Scene:
    base = Fraction(1, 30_000)
    return Scene("rate_29_97", coded_stream("ibbp", [1001] * 300, base), 1, time_base=base)


def _wrap(pattern: str, depth: int) -> Callable[[], Scene]:
    return lambda: Scene(
        "wrap", coded_stream(pattern, start=NEAR_WRAP, modulus=MPEG_TS_MODULUS), depth, modulus=MPEG_TS_MODULUS
    )


def _wrap_file() -> Scene:
    return replace(_wrap("pyramid3", 2)(), live=False, every=3)


def _wrap_flv() -> Scene:
    """libav's reader adds 2^32 where FLV wraps at 2^31, so raw PTS leap by 2^31 there."""
    start = FLV_MODULUS - 5000
    packets = coded_stream("ibbp", [33, 33, 34] * 100, Fraction(1, 1000), start, FLV_MODULUS)
    leapt = [replace(p, raw_pts=_leap(p.raw_pts)) for p in packets]
    return Scene("wrap_flv", leapt, 1, time_base=Fraction(1, 1000), modulus=FLV_MODULUS)


def _leap(raw: int | None) -> int | None:
    return raw if raw is None or raw > FLV_MODULUS // 2 else raw + (1 << 32)


def _repeated_over_wrap() -> Scene:
    """Two pictures with a stamp from before the last one, right after the wrap: an increment adds a turn."""
    packets = coded_stream("ibbp", start=NEAR_WRAP, modulus=MPEG_TS_MODULUS)
    bad = {160: -2000, 200: -3000}
    moved = [_stamp(p, p.raw_pts + bad[p.index]) if p.index in bad and p.raw_pts is not None else p for p in packets]
    drops = {DropReason.OUT_OF_ORDER: 1, DropReason.DUPLICATE_PTS: 1}
    moved = [replace(p, raw_pts=p.raw_pts - 3500) if p.index == 160 and p.raw_pts is not None else p for p in moved]
    return Scene("bad_order_near_wrap", moved, 2, live=False, modulus=MPEG_TS_MODULUS, drops=drops)


def _stamp(packet: CodedPacket, raw: int) -> CodedPacket:
    return replace(packet, raw_pts=raw % MPEG_TS_MODULUS)


def _reconnect() -> Scene:
    """PTS start at 0 again after 2 s of silence; results of the old epoch come after the new one began."""
    first = coded_stream("ibbp", [3000] * 150)
    again = shifted(first, by_ns=5 * NS_PER_S + 100 * MS, connection=1, index=150)
    return Scene("reconnect", [*first, *again], 1, epochs=2, replies=steady(200 * MS))


def _reconnect_storm() -> Scene:
    """Six short connections with the same stamps: results of one come while the same PTS of the next wait."""
    first = coded_stream("none", [3000] * 8)
    again = [p for n in range(6) for p in shifted(first, n * 290 * MS, connection=n, index=8 * n)]
    return Scene("reconnect_storm", again, epochs=6, replies=steady(300 * MS), delay_ns=500 * MS)


def _restart_unnoticed() -> Scene:
    """The camera restarts its clock without a reconnect: only the step tells."""
    first = coded_stream("none", [3000] * 150, start=90_000_000)
    again = [replace(p, raw_pts=p.index * 3000, connection=0) for p in coded_stream("none", [3000] * 150)]
    moved = shifted(again, by_ns=5 * NS_PER_S, connection=1, index=150)
    return Scene("restart_unnoticed", [*first, *(replace(p, connection=0) for p in moved)], epochs=2, every=2)


def _stray_stamps() -> Scene:
    """A DVR stamps single pictures hours away."""
    packets = coded_stream()
    away = {70: 10 * 3600 * 90_000, 130: -7 * 3600 * 90_000}
    moved = [replace(p, raw_pts=p.raw_pts + away.get(p.index, 0)) for p in packets if p.raw_pts is not None]
    return Scene("stray_stamps", moved, drops={DropReason.BAD_PTS: 2})


def _missing_and_duplicate() -> Scene:
    packets = coded_stream("ibbp")
    moved = [replace(p, raw_pts=None) if p.index in (40, 41) else p for p in packets]
    moved = [replace(p, raw_pts=(p.index - 1) * 3000) if p.index == 80 else p for p in moved]
    drops = {DropReason.NO_PTS: 2, DropReason.DUPLICATE_PTS: 1}
    return Scene("missing_and_duplicate", moved, 1, drops=drops)


def _lost_packets() -> Scene:
    packets = [replace(p, lost=p.index in (50, 51, 122)) for p in coded_stream("ibbp")]
    return Scene("lost_packets", packets, 1, drops={DropReason.DECODE_ERROR: 3})


def _gap() -> Scene:
    """Two seconds without pictures inside an epoch, in which the object leaves: boxes must not cross."""
    packets = coded_stream("none", [3000] * 100 + [180_000] + [3000] * 200)
    return Scene("gap", packets, every=3, absent=range(101, 114))


def _clock_jump() -> Scene:
    """The wall clock jumps by an hour, twice."""
    wall = lambda now: now + (3600 * NS_PER_S if 3 * NS_PER_S < now < 6 * NS_PER_S else 0)  # noqa: E731
    return Scene("clock_jump", coded_stream(), wall=wall)


def _rivals() -> Scene:
    """The better outcome comes first, then a drop and a lower version for the same frame."""
    rivals = (Reply(60 * MS, version=2), Reply(70 * MS, version=1), Reply(80 * MS, version=None))
    return Scene("rival_outcomes", coded_stream(), version=2, replies=lambda i, p: rivals)


def _two_pipelines() -> Scene:
    """Two models on one source, one of them slower."""
    replies = lambda i, p: (Reply(60 * MS if p == "code" else 120 * MS),)  # noqa: E731
    return Scene("two_pipelines", coded_stream("ibbp"), 1, pipelines=("code", "other"), replies=replies)


def _every_fifth() -> Scene:
    return Scene("every_fifth", coded_stream("ibbp"), 1, every=5)


def _fine_time_base() -> Scene:
    base = Fraction(1, NS_PER_S)
    return Scene("time_base_1ns", coded_stream("pyramid3", [33_366_667] * 300, base), 2, time_base=base)


CASES: dict[str, Callable[[], Scene]] = {
    "no_b_frames": _pattern("none", 0),
    "ibbp": _pattern("ibbp", 1),
    "pyramid3": _pattern("pyramid3", 2),
    "pyramid15": _pattern("pyramid15", 4),
    "latency": _lognormal,
    "late_results": _late_results,
    "variable_rate": _variable_rate,
    "rate_29_97": _ntsc,
    "wrap_ibbp": _wrap("ibbp", 1),
    "wrap_pyramid3": _wrap("pyramid3", 2),
    "wrap_file": _wrap_file,
    "wrap_flv": _wrap_flv,
    "bad_order_near_wrap": _repeated_over_wrap,
    "reconnect": _reconnect,
    "reconnect_storm": _reconnect_storm,
    "restart_unnoticed": _restart_unnoticed,
    "stray_stamps": _stray_stamps,
    "missing_and_duplicate": _missing_and_duplicate,
    "lost_packets": _lost_packets,
    "gap": _gap,
    "clock_jump": _clock_jump,
    "rival_outcomes": _rivals,
    "two_pipelines": _two_pipelines,
    "every_fifth": _every_fifth,
    "time_base_1ns": _fine_time_base,
}
