"""The panels of each dashboard, as data: title, unit, queries and, where there is a bound, the thresholds of its alert.

Percentiles come from histograms, never from averages of averages. `$source` and `$model` are the dashboards' variables.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. queries: (legend, PromQL). unit: of Grafana (`s`, `bytes`, `percentunit`, `reqps`, `short`).

    warn, bad: thresholds, drawn yellow and red; `falls` where low values are the bad ones. kind: `stat` for one number.
    """

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    kind: str = "timeseries"
    warn: float | None = None
    bad: float | None = None
    falls: bool = False
    stacked: bool = False


@dataclass(frozen=True, slots=True)
class Board:
    """One dashboard. variables: (name, PromQL label_values query)."""

    uid: str
    title: str
    panels: tuple[Panel, ...]
    variables: tuple[tuple[str, str], ...] = ()


SOURCE = (("source", "label_values(lockstep_stream_accepted_total, source)"),)
MODEL = (("model", "label_values(lockstep_inference_server_seconds_count, model)"),)
OF_SOURCE, OF_MODEL = '{source=~"$source"}', '{model=~"$model"}'


def quantiles(name: str, by: str = "", select: str = "") -> tuple[tuple[str, str], ...]:
    """p50, p95 and p99 of a histogram."""
    group, legend = (f", {by}", f" {{{{{by}}}}}") if by else ("", "")
    return tuple(
        (f"p{q}{legend}", f"histogram_quantile(0.{q}, sum by (le{group}) (rate({name}_bucket{select}[5m])))")
        for q in (50, 95, 99)
    )


def summed(name: str, by: str, where: str = "", window: str = "5m", of: str = "rate") -> str:
    """The rate (or increase) of a counter, summed by labels."""
    return f"sum by ({by}) ({of}({name}{where}[{window}]))"


OVERVIEW = Board(
    "overview",
    "Lockstep: is it fine?",
    (
        Panel("Roles that answer", "percentunit", (("up", "sum(up) / count(up)"),), "stat", 1.0, 0.99, falls=True),
        Panel("Requests", "reqps", (("requests", "sum(rate(lockstep_http_requests_total[5m]))"),)),
        Panel(
            "Errors",
            "percentunit",
            (("5xx, 5 min", "lockstep:http_errors:ratio5m"), ("5xx, 1 h", "lockstep:http_errors:ratio1h")),
            warn=0.006,
            bad=0.0144,
        ),
        Panel(
            "Burn of the error budget",
            "short",
            (("5 min", "lockstep:http_errors:ratio5m / 0.001"), ("1 h", "lockstep:http_errors:ratio1h / 0.001")),
            warn=6,
            bad=14.4,
        ),
        Panel("Latency", "s", quantiles("lockstep_http_request_seconds"), warn=0.25, bad=1.0),
        Panel(
            "Saturation",
            "short",
            (
                ("in flight", "sum(lockstep_inference_in_flight)"),
                ("shed a second", "sum(rate(lockstep_shed_total[5m]))"),
            ),
        ),
        Panel(
            "Age of the oldest newest result",
            "s",
            (("result", "max(min by (source) (lockstep_worker_result_age_seconds))"),),
            "stat",
            2,
            5,
        ),
        Panel(
            "Drops, all sources", "percentunit", (("{{source}}", "lockstep:stream_drops:ratio5m"),), warn=0.02, bad=0.05
        ),
    ),
)

REST = Board(
    "rest",
    "Lockstep: REST and models",
    (
        Panel(
            "Requests by model",
            "reqps",
            (("{{model}} {{outcome}}", summed("lockstep_inference_requests_total", "model, outcome", OF_MODEL)),),
        ),
        Panel("Errors by code", "reqps", (("{{code}}", summed("lockstep_http_errors_total", "code")),)),
        Panel(
            "Round trip to the server",
            "s",
            quantiles("lockstep_inference_server_seconds", "model", OF_MODEL),
            warn=0.25,
            bad=1.0,
        ),
        Panel(
            "Time in the server",  # mean, by Triton's own counters: of REST and of workers together
            "s",
            (
                (
                    "{{model}}",
                    summed("nv_inference_request_duration_us", "model", OF_MODEL)
                    + " / 1e6 / "
                    + summed("nv_inference_request_success", "model", OF_MODEL),
                ),
            ),
            warn=0.25,
            bad=1.0,
        ),
        Panel(
            "Stage time",
            "percentunit",
            (
                ("{{stage}}", summed("lockstep_model_stage_seconds_total", "stage", OF_MODEL)),
                ("queue", 'sum(rate(nv_inference_queue_duration_us{model=~"$model"}[5m])) / 1e6'),
            ),
            stacked=True,
        ),
        Panel(
            "CPU by stage",
            "percentunit",
            (("{{stage}}", summed("lockstep_model_stage_cpu_seconds_total", "stage", OF_MODEL)),),
            stacked=True,
        ),
        Panel(
            "Batch size",
            "short",
            (
                (
                    "{{model}}",
                    summed("nv_inference_count", "model", OF_MODEL)
                    + " / "
                    + summed("nv_inference_exec_count", "model", OF_MODEL),
                ),
            ),
        ),
        Panel("Bytes copied", "Bps", (("{{model}}", summed("lockstep_model_copied_bytes_total", "model", OF_MODEL)),)),
        Panel(
            "Models ready",
            "short",
            (("{{model}}", "min by (model) (lockstep_model_ready)"),),
            "stat",
            1,
            0.5,
            falls=True,
        ),
        Panel(
            "Certificates",
            "short",
            (
                ("refused", "max(lockstep_models_refused)"),
                ("mismatched", "sum(increase(lockstep_certificate_mismatches_total[5m])) or vector(0)"),
            ),
            "stat",
            0.5,
            1,
        ),
    ),
    MODEL,
)

STREAMS = Board(
    "streams",
    "Lockstep: streams",
    (
        Panel(
            "Frames in",
            "short",
            (("{{source}}", summed("lockstep_stream_accepted_total", "source", OF_SOURCE, window="1m")),),
        ),
        Panel(
            "Analysed",
            "short",
            (("{{source}}", summed("lockstep_worker_analysed_total", "source", OF_SOURCE, window="1m")),),
        ),
        Panel(
            "Shown", "short", (("{{source}}", summed("lockstep_stream_shown_total", "source", OF_SOURCE, window="1m")),)
        ),
        Panel(
            "Age of the newest picture",
            "s",
            (("{{source}}", 'min by (source) (lockstep_ingest_picture_age_seconds{source=~"$source"})'),),
            warn=5,
            bad=10,
        ),
        Panel(
            "Age of the newest result",
            "s",
            (("{{source}}", 'min by (source) (lockstep_worker_result_age_seconds{source=~"$source"})'),),
            warn=2,
            bad=5,
        ),
        Panel("Arrival to release", "s", quantiles("lockstep_stream_latency_seconds", "source", OF_SOURCE)),
        Panel(
            "Drops by reason",
            "short",
            (
                (
                    "{{source}} {{reason}}",
                    summed(
                        "lockstep_stream_outcomes_total", "source, reason", '{outcome!="result", source=~"$source"}'
                    ),
                ),
            ),
        ),
        Panel(
            "Alignment",
            "short",
            (
                ("late {{source}}", summed("lockstep_stream_late_total", "source", OF_SOURCE)),
                ("missing {{source}}", summed("lockstep_stream_missing_total", "source", OF_SOURCE)),
                (
                    "mismatched {{source}}",
                    summed("lockstep_stream_mismatched_total", "source", OF_SOURCE, of="increase"),
                ),
            ),
        ),
        Panel(
            "Epochs and reconnects",
            "short",
            (
                (
                    "epochs {{source}}",
                    summed("lockstep_stream_epochs_total", "source", OF_SOURCE, window="1h", of="increase"),
                ),
                (
                    "ends of readers: {{how}}",
                    summed("lockstep_ingest_child_ends_total", "how", window="1h", of="increase"),
                ),
            ),
        ),
    ),
    SOURCE,
)

LOG = Board(
    "log",
    "Lockstep: Kafka and Redis",
    (
        Panel(
            "Lag",
            "short",
            (("{{job}} {{topic}}", "max by (job, topic) (lockstep_role_lag_records)"),),
            warn=500,
            bad=1000,
        ),
        Panel(
            "Records read",
            "short",
            (("{{job}} {{topic}}", summed("lockstep_role_records_total", "job, topic", window="1m")),),
        ),
        Panel("In flight", "short", (("{{job}}", "sum by (job) (lockstep_role_in_flight)"),)),
        Panel(
            "Queue fill",
            "percentunit",
            (("{{source}}", "max by (source) (lockstep_worker_queue_fill)"),),
            warn=0.5,
            bad=0.9,
        ),
        Panel("Partitions", "short", (("{{job}} {{instance}}", "lockstep_role_partitions"),)),
        Panel(
            "Rebalances and refused commits",
            "short",
            (
                ("{{job}} {{change}}", summed("lockstep_role_rebalances_total", "job, change", of="increase")),
                ("refused commits", "sum(increase(lockstep_role_commits_refused_total[5m]))"),
            ),
        ),
        Panel(
            "Dead letters",
            "short",
            (
                ("{{reason}}", summed("lockstep_role_dead_letters_total", "reason", window="1h", of="increase")),
                (
                    "refused records {{topic}}",
                    summed("lockstep_role_refused_total", "topic", window="1h", of="increase"),
                ),
            ),
        ),
        Panel(
            "Deleted before they were read",
            "short",
            (("{{topic}}", summed("lockstep_role_deleted_unread_total", "topic", window="1h", of="increase")),),
        ),
        Panel(
            "Result index",
            "short",
            (("up", "min(lockstep_index_up)"), ("written a second", "sum(rate(lockstep_index_written_total[1m]))")),
        ),
    ),
)

MACHINE = Board(
    "machine",
    "Lockstep: machine and GPU",
    (
        Panel("CPU busy", "percentunit", (("machine", "max(lockstep_machine_cpu_busy)"),), warn=0.8, bad=0.95),
        Panel(
            "CPU by role",
            "percentunit",
            (("{{job}}", summed("lockstep_process_cpu_seconds_total", "job", window="1m")),),
            stacked=True,
        ),
        Panel(
            "Memory free",
            "percentunit",
            (
                (
                    "available",
                    'min(lockstep_machine_memory_bytes{kind="available"})'
                    ' / min(lockstep_machine_memory_bytes{kind="total"})',
                ),
            ),
            warn=0.2,
            bad=0.1,
            falls=True,
        ),
        Panel(
            "Memory by role", "bytes", (("{{job}}", "sum by (job) (lockstep_process_resident_bytes)"),), stacked=True
        ),
        Panel("Open files", "short", (("{{job}}", "sum by (job) (lockstep_process_open_files)"),)),
        Panel(
            "Disk free",
            "percentunit",
            (
                (
                    "{{place}}",
                    'min by (place) (lockstep_machine_disk_bytes{kind="available"})'
                    ' / min by (place) (lockstep_machine_disk_bytes{kind="total"})',
                ),
            ),
            warn=0.2,
            bad=0.1,
            falls=True,
        ),
        Panel(
            "Starts",
            "short",
            (("{{job}}", "max by (job, instance) (changes(lockstep_process_started_seconds[10m]))"),),
            warn=2,
            bad=4,
        ),
        Panel("GPU busy", "percentunit", (("{{gpu_uuid}}", "nv_gpu_utilization"),)),
        Panel(
            "GPU memory",
            "bytes",
            (("used {{gpu_uuid}}", "nv_gpu_memory_used_bytes"), ("total {{gpu_uuid}}", "nv_gpu_memory_total_bytes")),
        ),
    ),
)

BOARDS = (OVERVIEW, REST, STREAMS, LOG, MACHINE)
