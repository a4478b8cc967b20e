"""The rows that need the whole served model: server, gateway, expected score, memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from converters.artifacts import Computed
from converters.assemble import bundle_of
from converters.certificate import NO_TRITON
from converters.meter import Meter, Say
from converters.parity import StageRow, failed, not_run
from converters.private_server import peak_rss_bytes, private_gateway, private_triton, why_no_triton
from converters.proof import Proof, judge_of, opened
from converters.rows_facts import expected_score_row, memory_row
from converters.rows_gates import decisions_only, gate_of
from converters.rows_server import Load, Runner, served_row
from converters.rows_transport import transport_row
from converters.runners import GatewayRunner, LocalRunner, TritonRunner
from converters.samples import read_tensors, truth
from converters.sources import Sources
from serving.config import Settings
from serving.errors import LockstepError
from serving.preprocess.jpeg import JpegCodec, frame_codec
from serving.served_model import ServedModel
from serving.tasks.base import COMMON_PARAMETERS, parse_parameters
from serving.types import Array, TaskResult

SERVER = "the staged version through a private Triton, against the same engine in this process"
GATEWAY = "the staged version through a private gateway and Triton, against the same engine in this process"
RAW = "task raw: a JSON answer holds no numbers"
RUNNING = "not asked: the certificate is run against one running server"


def served_rows(
    staged: Path, sources: Sources, computed: Computed, proof: Proof, settings: Settings, say: Say
) -> list[StageRow]:
    """server, gateway, transport, expected_score, memory. Nothing is started once an earlier row failed."""
    bundle = bundle_of(staged, sources, proof)
    with opened(proof.engine, staged, proof.precision) as engine:
        model = ServedModel(bundle, engine)
        local = LocalRunner(model, tensors_of(sources))
        server, peak = server_rows(staged, sources, proof, local, settings, say)
        transport = _transport_row(model, sources, frame_codec(settings), say)
        score = score_row(sources, computed, local, say)
    return [*server, transport, score, memory_row(peak)]


def rows_of_running(
    address: str, version_dir: Path, sources: Sources, computed: Computed, proof: Proof, settings: Settings, say: Say
) -> list[StageRow]:
    """The same against a server that runs: a gateway (http://) or a Triton (grpc://); nothing is started."""
    name, task = sources.spec.name, sources.spec.task
    bundle = bundle_of(version_dir, sources, proof)
    with opened(proof.engine, version_dir, proof.precision) as engine:
        model = ServedModel(bundle, engine)
        local = LocalRunner(model, tensors_of(sources))
        if address.startswith("grpc://"):
            with TritonRunner(address, name, task, tensors_of(sources)) as triton:
                row = _row("server", f"Triton at {address} against the same engine here", triton, local, sources, say)
            rows = [row, not_run("gateway", GATEWAY, RUNNING)]
        else:
            with GatewayRunner(address, name, task) as gateway:
                text = f"gateway at {address} against the same engine here"
                row = not_run("gateway", text, RAW) if task == "raw" else _row(
                    "gateway", text, gateway, local, sources, say
                )  # fmt: skip
            rows = [not_run("server", SERVER, RUNNING), row]
        transport = _transport_row(model, sources, frame_codec(settings), say)
        return [*rows, transport, score_row(sources, computed, local, say)]


def score_row(sources: Sources, computed: Computed, local: Runner, say: Say) -> StageRow:
    """The expected score of the labelled samples, on the checkpoint's outputs and on the served model's answers."""
    labels = truth([s.label for s in sources.samples.samples], sources.labels) if sources.samples.labelled else None
    spec, task, reference = sources.spec, sources.task, computed.reference
    if labels is None or spec.expect is None:
        return expected_score_row(task, spec, spec.expect, None if labels is None else [], [], [])
    chosen = [i for i, label in enumerate(labels) if label is not None]
    values = parse_parameters(task, spec, {})
    checkpoint: list[TaskResult] = [
        task.postprocess(reference.outputs[i], reference.transforms[i], spec, values) for i in chosen
    ]
    meter = Meter(say, "expected_score", len(chosen))
    try:
        served = [local.ask(sources.samples.samples[i], {}).result for i in meter.over(chosen)]
    except LockstepError as error:
        return failed("expected_score", "checkpoint and served model against the samples' labels", str(error))
    return expected_score_row(task, spec, spec.expect, [str(labels[i]) for i in chosen], checkpoint, served)


def load_of(sources: Sources) -> Load:
    """Parameters for the crowded part: thresholds low enough that a borderline box is seen on both sides."""
    gate = gate_of("server", sources.task, sources.spec)
    values = judge_of(sources).parameters(gate.bounds)
    return Load({name: value for name, value in values.items() if value is not None and name not in COMMON_PARAMETERS})


def tensors_of(sources: Sources) -> dict[str, dict[str, Array]] | None:
    """A raw model's samples by name; None for pictures."""
    if sources.spec.task != "raw":
        return None
    return dict(zip(sources.samples.names, read_tensors(sources.samples, sources.spec), strict=True))


def _transport_row(model: ServedModel, sources: Sources, codec: JpegCodec, say: Say) -> StageRow:
    meter = Meter(say, "transport", len(sources.samples))
    gate = decisions_only(gate_of("transport", sources.task, sources.spec))
    return transport_row(model, sources.samples.samples, codec, judge_of(sources), gate, meter.add)


def server_rows(
    staged: Path, sources: Sources, proof: Proof, local: Runner, settings: Settings, say: Say
) -> tuple[list[StageRow], int | None]:
    if proof.failed:
        reason = "an earlier stage failed"
        return [not_run("server", SERVER, reason), not_run("gateway", GATEWAY, reason)], None
    if why := why_no_triton(settings):
        return [
            not_run("server", SERVER, f"{NO_TRITON}: {why}"),
            not_run("gateway", GATEWAY, f"{NO_TRITON}: {why}"),
        ], None
    name, task = sources.spec.name, sources.spec.task
    say("start a private Triton")
    try:
        with private_triton(staged, settings) as triton:
            with TritonRunner(triton.grpc_url, name, task, tensors_of(sources)) as runner:
                rows = [_row("server", SERVER, runner, local, sources, say)]
            rows.append(_gateway_row(staged, triton.grpc_url, sources, local, settings, say))
            return rows, peak_rss_bytes(triton, name)
    except LockstepError as error:
        reason = f"{error.code}: {error}"
        return [failed("server", SERVER, reason), not_run("gateway", GATEWAY, "the server did not come up")], None


def _gateway_row(
    staged: Path, triton_url: str, sources: Sources, local: Runner, settings: Settings, say: Say
) -> StageRow:
    if sources.spec.task == "raw":
        return not_run("gateway", GATEWAY, RAW)
    say("start a private gateway")
    try:
        with (
            private_gateway(staged, triton_url, settings) as address,
            GatewayRunner(address, sources.spec.name, sources.spec.task) as runner,
        ):
            return _row("gateway", GATEWAY, runner, local, sources, say)
    except LockstepError as error:
        return failed("gateway", GATEWAY, f"{error.code}: {error}")


def _row(stage: str, compared: str, runner: Runner, local: Runner, sources: Sources, say: Say) -> StageRow:
    samples = sources.samples.samples
    meter = Meter(say, stage, len(samples) + max(len(samples), 64))
    done: Callable[[int], None] = meter.add
    gate = decisions_only(gate_of(stage, sources.task, sources.spec))
    return served_row(stage, compared, runner, local, samples, judge_of(sources), gate, load_of(sources), done)
