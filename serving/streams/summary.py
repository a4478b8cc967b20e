"""What a run was: numbers that balance, as a value, as JSON and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from serving.align import Balance
from serving.media import OutputSummary


@dataclass(frozen=True, slots=True)
class SourceSummary:
    """One source. balances: by pipeline. drawn: boxes by origin. latency_ms: arrival to release, p50 and p99.

    late: results that came after their frame was shown; mismatched: results whose PTS was not their frame's. skipped:
    frames that a mixer which had fallen behind did not show; unshown: frames that lost their picture to a slow output.
    """

    source_id: str
    address: str
    kind: str
    codec: str
    width: int
    height: int
    epochs: int
    connections: int
    shown: int
    covered: int
    unshown: int
    skipped: int
    balances: Mapping[str, Balance]
    drawn: Mapping[str, int]
    missing: Mapping[str, int]
    late: int
    mismatched: int
    discarded: int
    unclaimed: int
    result_lines: int
    latency_ms: tuple[float, float]
    outputs: Sequence[OutputSummary] = ()
    errors: Mapping[str, int] | None = None
    error: str = ""
    error_code: str = ""

    @property
    def balanced(self) -> bool:
        """Every accepted frame has exactly one outcome for every pipeline."""
        return all(balance.holds and balance.in_flight == 0 for balance in self.balances.values())

    @property
    def ok(self) -> bool:
        """The source was read to its end and balances."""
        return self.balanced and not self.error


@dataclass(frozen=True, slots=True)
class RunSummary:
    """All sources, and how long it took. failures: by model, the last error that was the end of a frame."""

    sources: tuple[SourceSummary, ...]
    seconds: float
    stopped: bool = False
    failures: Mapping[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Exit status 0."""
        return all(source.ok for source in self.sources)

    def to_document(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "ok": self.ok,
            "stopped": self.stopped,
            "seconds": round(self.seconds, 3),
            "sources": [_source(source) for source in self.sources],
            "failures": dict(self.failures),
        }

    def text(self) -> str:
        """For people."""
        lines = [line for source in self.sources for line in _lines(source, self.seconds)]
        return "\n".join([*lines, *(f"{name}: the last error: {text}" for name, text in self.failures.items())])


def _source(source: SourceSummary) -> dict[str, Any]:
    balances = {name: asdict(b) | {"reasons": dict(b.reasons)} for name, b in source.balances.items()}
    return asdict(source) | {"balances": balances, "balanced": source.balanced, "ok": source.ok}


def _lines(source: SourceSummary, seconds: float) -> list[str]:
    rate = source.shown / seconds if seconds else 0.0
    epochs = f", {source.epochs} epochs" if source.epochs > 1 else ""
    size = f"{source.codec} {source.width}x{source.height}" if source.codec else "never opened"
    out = [f"{source.source_id}: {size}{epochs}; {source.shown} frames shown in {seconds:.1f} s ({rate:.1f}/s)"]
    for name, b in source.balances.items():
        word = "balanced" if b.holds and not b.in_flight else "NOT BALANCED"
        reasons = ", ".join(f"{reason} {count}" for reason, count in b.reasons)
        out.append(
            f"  {name}: accepted {b.accepted} = results {b.results} + dropped {b.dropped} + dead {b.dead}: {word}"
            + (f" ({reasons})" if reasons else "")
        )
    drawn = ", ".join(f"{count} {origin}" for origin, count in sorted(source.drawn.items())) or "none"
    out.append(f"  boxes drawn: {drawn}; on {source.covered} of {source.shown} frames; {source.late} results late")
    if source.skipped or source.unshown:
        out.append(f"  not shown: {source.skipped} skipped to catch up, {source.unshown} without picture")
    out += [f"  {output.path}: {output.frames} frames, {output.bytes} bytes" for output in source.outputs]
    out += [f"  note: {note}" for output in source.outputs for note in output.notes]
    out += [f"  error[{source.error_code}]: {source.error}"] if source.error else []
    return out
