"""What a step from the last accepted PTS to the next one means: go on, drop the frame, or suspect a new epoch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

NS_PER_S = 1_000_000_000


class Step(Enum):
    """FORWARD continues the timeline; DUPLICATE and BEHIND are dropped; BREAK may open an epoch."""

    FORWARD = "forward"
    DUPLICATE = "duplicate"
    BEHIND = "behind"
    BREAK = "break"


@dataclass(frozen=True, slots=True)
class StepRules:
    """gap_max_ns is Gmax. Live sources only: a step of over `stray_step_ns` that differs from the elapsed monotonic
    time by over `stray_slack_ns` is a break, which tells a restart at zero from a wrap when no reconnect was signalled.
    """

    live: bool
    gap_max_ns: int = 10 * NS_PER_S
    stray_step_ns: int = NS_PER_S
    stray_slack_ns: int = 2 * NS_PER_S

    def judge(self, step_ns: int, back_limit_ns: int, elapsed_ns: int) -> Step:
        """`back_limit_ns`: R x nominal duration; `elapsed_ns`: monotonic time since the last accepted frame came in."""
        if step_ns == 0:
            return Step.DUPLICATE
        if step_ns < 0:
            return Step.BEHIND if -step_ns <= back_limit_ns else Step.BREAK
        if not self.live:
            return Step.FORWARD
        stray = step_ns > self.stray_step_ns and abs(step_ns - elapsed_ns) > self.stray_slack_ns
        return Step.BREAK if stray or step_ns > self.gap_max_ns else Step.FORWARD
