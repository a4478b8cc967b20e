"""Random scenes for the properties, and what one compares of two of them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from serving.frames import AlignedFrame
from serving.testing.coded_stream import REORDER, coded_stream
from serving.testing.sync_scene import Played, Reply, Scene

MS = 1_000_000
QUICK = settings(
    max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
LONG = settings(QUICK, max_examples=1000)

patterns = st.sampled_from(sorted(REORDER))
seeds = st.integers(0, 2**32 - 1)


def durations(seed: int, frames: int, regular: bool, unit: int = 9) -> list[int]:
    """Ticks of 1/90000 s between frames: 30 fps, or anything from 1 ms to 150 ms; multiples of `unit`."""
    rng = random.Random(seed)
    return [3000 // unit * unit if regular else rng.randrange(unit, 13_500, unit) for _ in range(frames)]


def early_replies(seed: int, most_ms: int) -> Callable[[int, str], tuple[Reply, ...]]:
    """One result for every frame, at some time up to `most_ms`."""

    def replies(index: int, pipeline: str) -> tuple[Reply, ...]:
        rng = random.Random(f"{seed} {index} {pipeline}")
        return (Reply(rng.randrange(most_ms * MS)),)

    return replies


def wild_replies(seed: int, most_ms: int = 600) -> Callable[[int, str], tuple[Reply, ...]]:
    """None, one or several outcomes a frame: results of several versions and attempts, drops, on time and late."""

    def replies(index: int, pipeline: str) -> tuple[Reply, ...]:
        rng = random.Random(f"{seed} {index} {pipeline}")
        return tuple(
            Reply(rng.randrange(most_ms * MS), rng.choice([None, 1, 1, 1, 2]), rng.randrange(1, 4))
            for _ in range(rng.choice([0, 1, 1, 1, 1, 2, 3]))
        )

    return replies


@st.composite
def scenes(draw: st.DrawFn, live: bool | None = None, early: bool = False) -> Scene:
    """Some stream, some modulus, some latencies."""
    pattern, seed = draw(patterns), draw(seeds)
    frames = draw(st.integers(2, 60))
    modulus = draw(st.sampled_from([None, 1 << 33, 1 << 32]))
    start = 0 if modulus is None else modulus - draw(st.integers(0, 200_000))
    packets = coded_stream(pattern, durations(seed, frames, draw(st.booleans())), start=start, modulus=modulus)
    is_live = draw(st.booleans()) if live is None else live
    replies = early_replies(seed, 200) if early else wild_replies(seed)
    if not is_live and not early:  # a file's stage always answers
        wild = replies
        replies = lambda index, pipeline: wild(index, pipeline) or (Reply(0, None),)  # noqa: E731
    return Scene(
        "random",
        packets,
        REORDER[pattern],
        is_live,
        modulus=modulus,
        rate=Fraction(60),
        delay_ns=1000 * MS if early else 250 * MS,  # late enough for every early reply, whatever the anchor does
        every=draw(st.sampled_from([1, 1, 2, 5])),
        pipelines=draw(st.sampled_from([("code",), ("code", "other")])),
        replies=replies,
    )


def drawn(played: Played) -> list[tuple[object, ...]]:
    """Everything a viewer sees: which frames, when in the output, with which boxes of which origin."""
    return [_seen(shown) for shown in played.shown]


def _seen(shown: AlignedFrame) -> tuple[object, ...]:
    boxes = tuple(
        (o.pipeline, o.boxes.xyxy.tobytes(), o.boxes.class_id.tobytes(), o.origin.tobytes()) for o in shown.overlays
    )
    return shown.frame.epoch, shown.frame.frame_seq, shown.frame.pts_ns, shown.out_pts_ns, boxes


def with_dts(scene: Scene, change: Callable[[int], int | None]) -> Scene:
    """The same scene with other DTS."""
    return replace(scene, packets=[replace(p, raw_dts=change(p.tag)) for p in scene.packets])
