"""Ways of getting alignment wrong, each a replacement of parts of the genuine code, each with the cases that must fail.

Production code has no switch for any of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from serving.testing.mutants.keys import (
    ARRIVAL,
    DTS,
    FLOAT_SECONDS,
    LATE_ON_NEWEST,
    MILLISECONDS,
    NO_EPOCH,
    ONE_PIPELINE,
    PACKET_ORDER,
)
from serving.testing.mutants.rules import FILL_ACROSS_GAP, LAST_ARRIVAL, ONE_WAY_UNWRAP, WALL_CLOCK
from serving.testing.sync_scene import Parts


@dataclass(frozen=True, slots=True)
class Mutant:
    """A defect and the cases (`serving.testing.sync_cases`) of which every one must fail with it."""

    what: str
    parts: Parts
    cases: tuple[str, ...]


MUTANTS: dict[str, Mutant] = {
    "dts": Mutant("results keyed by DTS", DTS, ("ibbp", "pyramid3", "variable_rate", "wrap_pyramid3")),
    "packet_order": Mutant("nth packet taken for nth picture", PACKET_ORDER, ("ibbp", "pyramid3")),
    "arrival": Mutant("results drawn on the newest frame", ARRIVAL, ("no_b_frames", "latency", "two_pipelines")),
    "milliseconds": Mutant("keys in milliseconds, rounded here, cut off there", MILLISECONDS, ("ibbp", "rate_29_97")),
    "float": Mutant("keys in float32 seconds", FLOAT_SECONDS, ("rate_29_97", "time_base_1ns", "variable_rate")),
    "no_epoch": Mutant("epoch left out of the key", NO_EPOCH, ("reconnect_storm",)),
    "one_way_unwrap": Mutant("a falling raw PTS is always a wrap", ONE_WAY_UNWRAP, ("bad_order_near_wrap",)),
    "wall_clock": Mutant("deadlines by the wall clock", WALL_CLOCK, ("clock_jump",)),
    "last_arrival": Mutant("the outcome that came last wins", LAST_ARRIVAL, ("rival_outcomes",)),
    "late_on_newest": Mutant("a late result drawn on the newest frame", LATE_ON_NEWEST, ("late_results",)),
    "fill_across_gap": Mutant("boxes filled over any distance", FILL_ACROSS_GAP, ("gap",)),
    "one_pipeline": Mutant("two pipelines under one key", ONE_PIPELINE, ("two_pipelines",)),
}
