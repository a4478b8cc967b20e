"""The one list of metrics: names, kinds, labels, and each label's closed set of values. docs/metrics.md is its print.

Label values are closed sets, so a stranger cannot make series: what is unknown becomes `other` before it gets here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BATCH_BUCKETS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
OTHER = "other"


@dataclass(frozen=True, slots=True)
class MetricDefinition:
    """One metric. `buckets` (seconds, frames) are for histograms; `merge` says how gauges of workers become one."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    merge: Literal["livesum", "livemin", "livemax"] = "livesum"

    def __post_init__(self) -> None:
        if (self.kind == "counter") != self.name.endswith("_total"):
            raise ValueError(f"metric {self.name}: expected counters, and only those, to end in _total")
        if (self.kind == "histogram") != bool(self.buckets):
            raise ValueError(f"metric {self.name}: expected buckets for histograms only, got {self.buckets}")


METRICS: tuple[MetricDefinition, ...] = (
    MetricDefinition(
        "lockstep_http_requests_total", "counter", "HTTP requests answered.", ("route", "method", "status")
    ),
    MetricDefinition(
        "lockstep_http_request_seconds",
        "histogram",
        "Time from the request's headers to the end of its answer.",
        ("route",),
        LATENCY_BUCKETS,
    ),
    MetricDefinition("lockstep_http_requests_in_flight", "gauge", "HTTP requests now being answered."),
    MetricDefinition("lockstep_http_errors_total", "counter", "Answers that carry an error, by its code.", ("code",)),
    MetricDefinition("lockstep_http_body_bytes_total", "counter", "Bytes of request bodies received."),
    MetricDefinition(
        "lockstep_http_bodies_held_bytes", "gauge", "Bytes of request bodies that are on their way in and not complete."
    ),
    MetricDefinition(
        "lockstep_inference_requests_total",
        "counter",
        "Samples sent to the inference server, by outcome: ok or an error's code.",
        ("model", "outcome"),
    ),
    MetricDefinition(
        "lockstep_inference_server_seconds",
        "histogram",
        "Round trip of one sample to the inference server.",
        ("model",),
        LATENCY_BUCKETS,
    ),
    MetricDefinition(
        "lockstep_inference_stage_seconds_total",
        "counter",
        "Time spent by stage, as the model reports it: decode, preprocess, infer, postprocess.",
        ("model", "stage"),
    ),
    MetricDefinition(
        "lockstep_rule_boxes_total",
        "counter",
        "Boxes that a rule of the model's YAML took away, or gave another class.",
        ("model", "rule"),
    ),
    MetricDefinition("lockstep_inference_in_flight", "gauge", "Samples admitted and not yet answered."),
    MetricDefinition(
        "lockstep_shed_total",
        "counter",
        "Requests refused at the door: in_flight, wait, body_bytes, connections.",
        ("reason",),
    ),
    MetricDefinition(
        "lockstep_model_ready",
        "gauge",
        "1 where the model's last canary inference passed, 0 where not (least of all workers).",
        ("model",),
        merge="livemin",
    ),
    MetricDefinition("lockstep_canary_total", "counter", "Canary inferences: passed or failed.", ("model", "outcome")),
    MetricDefinition(
        "lockstep_draining", "gauge", "1 from SIGTERM on, 0 before (greatest of all workers).", merge="livemax"
    ),
    MetricDefinition(
        "lockstep_stream_outcomes_total",
        "counter",
        "Ledger keys closed, by how they ended; adds up to the frames accepted once a source is quiet.",
        ("source", "pipeline", "outcome", "reason"),
    ),
    MetricDefinition(
        "lockstep_stream_accepted_total", "counter", "Frames that got a place in the ledger.", ("source",)
    ),
    MetricDefinition("lockstep_stream_shown_total", "counter", "Frames shown by the mixer.", ("source",)),
    MetricDefinition(
        "lockstep_stream_boxes_total", "counter", "Boxes shown, by how they came to be.", ("source", "origin")
    ),
    MetricDefinition(
        "lockstep_stream_missing_total",
        "counter",
        "Frames to be analysed that were shown without this pipeline's result.",
        ("source", "pipeline"),
    ),
    MetricDefinition(
        "lockstep_stream_late_total", "counter", "Results that came after their frame was shown.", ("source",)
    ),
    MetricDefinition(
        "lockstep_stream_mismatched_total",
        "counter",
        "Results whose PTS was not their frame's: never drawn.",
        ("source",),
    ),
    MetricDefinition("lockstep_stream_epochs_total", "counter", "Timelines opened.", ("source",)),
    MetricDefinition("lockstep_stream_connections_total", "counter", "Connections made to the source.", ("source",)),
    MetricDefinition(
        "lockstep_stream_source_errors_total", "counter", "Connections refused or broken, by error.", ("source", "code")
    ),
    MetricDefinition(
        "lockstep_stream_unshown_total", "counter", "Frames that lost their picture to a slow output.", ("source",)
    ),
    MetricDefinition("lockstep_stream_pictures_held", "gauge", "Pictures now held by the mixer.", ("source",)),
    MetricDefinition(
        "lockstep_stream_latency_seconds",
        "histogram",
        "From a frame's arrival to its release by the mixer.",
        ("source",),
        LATENCY_BUCKETS,
    ),
    MetricDefinition(
        "lockstep_role_ready", "gauge", "1 where this role's /readyz is 200 (least of all processes).", merge="livemin"
    ),
    MetricDefinition("lockstep_role_partitions", "gauge", "Partition numbers assigned to this process; 0: idle."),
    MetricDefinition(
        "lockstep_role_lag_records", "gauge", "Records between this role's position and the end of the log.", ("topic",)
    ),
    MetricDefinition("lockstep_role_in_flight", "gauge", "Records read and not finished."),
    MetricDefinition("lockstep_role_records_total", "counter", "Records read.", ("topic",)),
    MetricDefinition(
        "lockstep_role_refused_total",
        "counter",
        "Records read that are not what docs/kafka.md says, or belong to no claimed epoch.",
        ("topic",),
    ),
    MetricDefinition(
        "lockstep_role_deleted_unread_total",
        "counter",
        "Records that retention deleted before this role read them.",
        ("topic",),
    ),
    MetricDefinition(
        "lockstep_role_commits_refused_total", "counter", "Commits that were refused, or that no broker answered."
    ),
    MetricDefinition(
        "lockstep_role_rebalances_total", "counter", "Partitions of topics that came or went.", ("change",)
    ),
    MetricDefinition(
        "lockstep_role_dead_letters_total", "counter", "Records written to dead_letter, by reason.", ("reason",)
    ),
    MetricDefinition("lockstep_ingest_sources", "gauge", "Sources of this process, by what they do.", ("state",)),
    MetricDefinition("lockstep_ingest_source_up", "gauge", "1 while a process reads this source.", ("source",)),
    MetricDefinition(
        "lockstep_ingest_source_frames", "gauge", "Records written by a source's present process.", ("source",)
    ),
    MetricDefinition(
        "lockstep_ingest_picture_age_seconds",
        "gauge",
        "Time since a source's newest picture; before its first, since it is wanted.",
        ("source",),
    ),
    MetricDefinition(
        "lockstep_ingest_child_ends_total", "counter", "Ends of processes that read a source, by how.", ("how",)
    ),
    MetricDefinition("lockstep_worker_queue_frames", "gauge", "Frames that wait for inference.", ("source",)),
    MetricDefinition(
        "lockstep_worker_queue_fill", "gauge", "Share of a source's queue that is taken, 0 to 1.", ("source",)
    ),
    MetricDefinition(
        "lockstep_worker_analysed_total", "counter", "Frames that a model was asked about.", ("source", "pipeline")
    ),
    MetricDefinition(
        "lockstep_worker_posted_total",
        "counter",
        "Outcome candidates that the log has acknowledged; the accountant's merge decides between them.",
        ("source", "pipeline", "outcome", "reason"),
    ),
    MetricDefinition(
        "lockstep_worker_batch_frames", "histogram", "Frames that went to the models together.", (), BATCH_BUCKETS
    ),
    MetricDefinition(
        "lockstep_worker_result_seconds",
        "histogram",
        "From reading a frame to the log's acknowledgement of its outcome.",
        ("source",),
        LATENCY_BUCKETS,
    ),
    MetricDefinition(
        "lockstep_worker_result_age_seconds", "gauge", "Time since the newest result of a source.", ("source",)
    ),
    MetricDefinition(
        "lockstep_worker_model_up",
        "gauge",
        "0 while a model does not answer, else 1 (least of all processes).",
        ("pipeline",),
        merge="livemin",
    ),
    MetricDefinition(
        "lockstep_mixer_resumed_total", "counter", "Sources whose output went on where it had ended.", ("source",)
    ),
    MetricDefinition(
        "lockstep_mixer_skipped_total", "counter", "Frames not shown, to catch up with the newest.", ("source",)
    ),
    MetricDefinition(
        "lockstep_mixer_undecodable_total",
        "counter",
        "Frames not shown: what the log carries is no picture.",
        ("source",),
    ),
    MetricDefinition(
        "lockstep_mixer_output_errors_total",
        "counter",
        "Failures of an output: hls, recording, publish.",
        ("source", "output"),
    ),
    MetricDefinition(
        "lockstep_mixer_publish_dropped_total",
        "counter",
        "Mixed pictures that a slow or absent receiver did not get.",
        ("source",),
    ),
    MetricDefinition(
        "lockstep_ledger_in_flight", "gauge", "Ledger keys that are not closed yet.", ("source", "pipeline")
    ),
    MetricDefinition("lockstep_index_up", "gauge", "1 while the result index answers its writer, else 0."),
    MetricDefinition("lockstep_index_written_total", "counter", "Results written into the index."),
    MetricDefinition(
        "lockstep_index_rebuilds_total", "counter", "Partitions whose index was lost or new, and is read from the log."
    ),
    MetricDefinition("lockstep_event_subscribers", "gauge", "Subscribers to live events of streams."),
    MetricDefinition(
        "lockstep_event_cuts_total", "counter", "Subscribers to live events that were cut, by reason.", ("reason",)
    ),
    MetricDefinition(
        "lockstep_events_late_total", "counter", "Results that came too late for their place among the live events."
    ),
    MetricDefinition(
        "lockstep_models_refused",
        "gauge",
        "Models of the repository that are not served: no certificate for this target, or files that are not its own.",
        merge="livemax",
    ),
    MetricDefinition(
        "lockstep_certificate_mismatches_total",
        "counter",
        "Answers that name another certificate than the one this gateway checked.",
        ("model",),
    ),
    MetricDefinition(
        "lockstep_process_resident_bytes", "gauge", "Resident memory of this role's process and its children."
    ),
    MetricDefinition("lockstep_process_open_files", "gauge", "Open file descriptors of the same processes."),
    MetricDefinition("lockstep_process_cpu_seconds_total", "counter", "CPU time of the same processes."),
    MetricDefinition(
        "lockstep_process_started_seconds",
        "gauge",
        "When this process was started, Unix time (the youngest of several).",
        merge="livemax",
    ),
    MetricDefinition(
        "lockstep_machine_memory_bytes",
        "gauge",
        "Memory of the machine, as a role sees it.",
        ("kind",),
        merge="livemin",
    ),
    MetricDefinition(
        "lockstep_machine_cpu_busy", "gauge", "Share of all cores that was busy in the last seconds.", merge="livemax"
    ),
    MetricDefinition(
        "lockstep_machine_disk_bytes", "gauge", "Disks that this role writes to.", ("place", "kind"), merge="livemin"
    ),
)

# Told by each model's process on Triton's own page (serving/backend_metrics.py), where Triton's nv_inference_* are too.
BACKEND_METRICS: tuple[MetricDefinition, ...] = (
    MetricDefinition(
        "lockstep_model_stage_seconds_total", "counter", "Time that a model's process spent.", ("model", "stage")
    ),
    MetricDefinition(
        "lockstep_model_stage_cpu_seconds_total",
        "counter",
        "CPU time that a model's process spent, all threads.",
        ("model", "stage"),
    ),
    MetricDefinition(
        "lockstep_model_copied_bytes_total", "counter", "Bytes of tensors copied to make batches.", ("model",)
    ),
)

# What values a label can have; docs/metrics.md prints it, the cardinality test checks it.
LABEL_VALUES: dict[str, str] = {
    "route": "the route's template, such as /v1/models/{name}/infer, or other",
    "method": "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, or other",
    "status": "the HTTP status",
    "code": "an error code of docs/errors.md",
    "model": "a served model's name, or other",
    "outcome": "ok or passed, or an error code, or failed; of streams: result, dropped, dead_letter",
    "stage": "decode, preprocess, infer, postprocess; of a model's process also header",
    "reason": "in_flight, wait, body_bytes, connections; of subscribers: stalled, overflow, index, log; of "
    "streams: a reason of docs/guarantees.md, or none",
    "source": "a source's name (those of this process, at most 200 in a role, then other)",
    "pipeline": "a model or pipeline a source is subscribed to",
    "rule": "a rule's name in the model's YAML",
    "origin": "measured, interpolated, extrapolated",
    "topic": "a topic of docs/kafka.md, without the prefix",
    "change": "assigned, revoked, lost",
    "output": "hls, recording, publish",
    "state": "running, backoff, ended, fenced, crowded",
    "kind": "total, available",
    "place": "cache, repository, mixed",
    "how": "over, handed_over, fenced, failed, crashed, stalled",
}
