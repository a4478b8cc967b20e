"""docs/metrics.md, from the list of metrics (`python -m serving.metrics_docs > docs/metrics.md`)."""

from __future__ import annotations

from collections.abc import Sequence

from serving.metrics_list import (
    BACKEND_METRICS,
    BATCH_BUCKETS,
    LABEL_VALUES,
    LATENCY_BUCKETS,
    METRICS,
    MetricDefinition,
)


def markdown(definitions: Sequence[MetricDefinition] = METRICS) -> str:
    """docs/metrics.md."""
    lines = [
        "# Metrics",
        "",
        "Written from `serving/metrics_list.py` (`python -m serving.metrics_docs > docs/metrics.md`); tested.",
        "Read them at `/metrics`. The values of all workers are added up; gauges say how they are joined.",
        "",
        "| name | type | labels | meaning |",
        "| --- | --- | --- | --- |",
    ]
    lines += [_row(d) for d in definitions]
    lines += ["", "On Triton's own page, beside its `nv_inference_*` (requests, batches, time in the queue):", ""]
    lines += ["| name | type | labels | meaning |", "| --- | --- | --- | --- |"]
    lines += [_row(d) for d in BACKEND_METRICS]
    lines += ["", "Labels have closed sets of values, so the number of series is bounded:", ""]
    lines += ["| label | values |", "| --- | --- |"]
    lines += [f"| `{name}` | {values} |" for name, values in LABEL_VALUES.items()]
    buckets = ", ".join(str(b) for b in LATENCY_BUCKETS)
    frames = ", ".join(f"{b:g}" for b in BATCH_BUCKETS)
    return "\n".join([*lines, "", f"Buckets of histograms: {buckets} seconds; {frames} frames.", ""])


def _row(d: MetricDefinition) -> str:
    kind = f"{d.kind} ({d.merge})" if d.kind == "gauge" else d.kind
    return f"| `{d.name}` | {kind} | {', '.join(d.labels) or '-'} | {d.help} |"


if __name__ == "__main__":
    import sys

    sys.stdout.write(markdown())
