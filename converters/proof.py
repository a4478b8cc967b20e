"""The rows of a certificate from the files of a version, in the order of the data's way.

Everything that judges is in `parity` and `rows_*`; here it is decided what is run, on what, and in which order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Set
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from converters.artifacts import MODEL_FP16, Computed, tensorrt
from converters.meter import Meter, Say
from converters.parity import Judge, StageRow, failed, not_run
from converters.rows_facts import constants_row, labels_row, load_row
from converters.rows_fast import COMPARED as FAST_COMPARED
from converters.rows_fast import STAGE as FAST
from converters.rows_fast import fast_decisions_row
from converters.rows_gates import RowGate, decisions_only, gate_of
from converters.rows_network import engine_row, network_row, signature_problems
from converters.rows_preprocess import preprocess_row, windows_row
from converters.rows_tensorrt import built_dtypes, built_row
from converters.samples import SampleSet, hear_all
from converters.signature import network_inputs
from converters.sources import Sources
from converters.work_folder import WorkFolder
from serving.engines import ARTIFACTS, open_engine
from serving.engines.openvino import bf16_supported
from serving.engines.tensorrt import compute_capability
from serving.errors import BuildFailed, EngineFailed, LockstepError, OperatorUnsupported, SpecInvalid
from serving.ports import Engine
from serving.spec import EngineName, ModelSpec
from serving.tasks.base import CountsClasses, parse_parameters
from serving.types import EngineInfo, TensorSpec

ON_CPU = ("openvino", "onnxruntime")
TENSORRT = ("tensorrt_rtx", "tensorrt")


@dataclass(slots=True)
class Proof:
    """Rows so far, and what they were read from. `engine` and `precision` are what will be served."""

    rows: list[StageRow] = field(default_factory=list)
    dtypes: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    engine: EngineName = "openvino"
    precision: str = "f32"
    info: EngineInfo | None = None

    @property
    def failed(self) -> bool:
        """Whether any row failed."""
        return any(row.status == "failed" for row in self.rows)


def judge_of(sources: Sources) -> Judge:
    """Compares outputs of this model."""
    return Judge(sources.task, sources.spec, sources.labels)


def before_the_network(sources: Sources, computed: Computed) -> list[StageRow]:
    """load, preprocess."""
    spec = sources.spec
    rows = [load_row(asdict(computed.report.load), spec)]
    gate = gate_of("preprocess", sources.task, spec)
    if spec.sound is not None:
        return [*rows, sound_row(sources, computed, gate)]
    if computed.prepared is None:
        return [*rows, not_run("preprocess", "pictures", "task raw has no pictures")]
    return [*rows, preprocess_row(sources.samples.names, computed.prepared, computed.training, gate)]


def sound_row(sources: Sources, computed: Computed, gate: RowGate) -> StageRow:
    """Our windows against the training side's, from the file's bytes."""
    rule = sources.spec.sound
    assert rule is not None
    heard = hear_all(sources.samples, rule) if computed.training is not None else []
    return windows_row(sources.samples.names, heard, computed.training, gate)


def graph_rows(sources: Sources, computed: Computed, folder: Path, proof: Proof, say: Say) -> None:
    """onnx_fp32, onnx_fp16."""
    try:
        with opened("onnxruntime", folder) as engine:
            proof.rows.append(onnx_fp32_row(sources, computed, engine, say))
            proof.dtypes["onnx_fp32"] = dtypes_of(engine.info)
    except EngineFailed as error:
        proof.rows.append(failed("onnx_fp32", "the exported graph against the checkpoint", str(error)))
    if sources.spec.precision == "fp16":
        proof.rows.append(onnx_fp16_row(sources, computed, folder, say))


def onnx_fp32_row(sources: Sources, computed: Computed, engine: Engine, say: Say) -> StageRow:
    """The exported graph, run by ONNX Runtime in FP32, alone and in batches."""
    sizes = batch_sizes(sources.spec)
    meter = Meter(say, "onnx_fp32", len(computed.reference) * (1 + len(sizes)))
    gate = gate_of("onnx_fp32", sources.task, sources.spec)
    return network_row(
        "onnx_fp32", "the exported graph (ONNX Runtime, FP32) against the checkpoint", meter.counting(engine.run),
        computed.reference, judge_of(sources), gate, batches=sizes,
        problems=signature_problems(engine.info, expected_inputs(sources.spec)),
    )  # fmt: skip


def onnx_fp16_row(sources: Sources, computed: Computed, folder: Path, say: Say) -> StageRow:
    """The half precision graph with each node's output rounded to half: ONNX Runtime on a CPU would be no evidence."""
    from converters.precision import run_fp16_emulated

    meter = Meter(say, "onnx_fp16", len(computed.reference))
    gate = gate_of("onnx_fp16", sources.task, sources.spec)
    compared = "the half precision graph, every node's output stored as half, against the checkpoint"

    def run(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        outputs: Mapping[str, Any] = run_fp16_emulated(folder / MODEL_FP16, dict(inputs))
        return outputs

    return network_row("onnx_fp16", compared, meter.counting(run), computed.reference, judge_of(sources), gate)


def cpu_engine_rows(
    sources: Sources, computed: Computed, folder: Path, proof: Proof, say: Say, served_in: str = ""
) -> None:
    """A row for each engine of the spec that this machine runs; the first is the one that is served.

    OpenVINO is tried in bf16 where the CPU computes it; what the gates refuse is served in f32. `served_in` names the
    precision of a version that is published already: no other is tried for it.
    """
    served = [name for name in sources.spec.engines if name in ON_CPU]
    if not served:
        raise SpecInvalid(f"{sources.spec.name}: engines: none of {ON_CPU}, so nothing can be served on a CPU")
    for name in served:
        wanted = (served_in,) if served_in and name == served[0] else precisions(name)
        row, precision, info = _engine_with_its_precision(sources, computed, folder, name, wanted, proof, say)
        proof.rows.append(row)
        if name == served[0] and info is not None:
            proof.engine, proof.precision, proof.info = name, precision, info


def tensorrt_row(sources: Sources, computed: Computed, work: WorkFolder, library: str, proof: Proof, say: Say) -> None:
    """Build the library's engines; run the fitting one where a device is, else judge what was parsed."""
    stage = f"engine_{library}"
    try:
        report = tensorrt(sources, library, work, say)
    except (BuildFailed, OperatorUnsupported) as error:
        proof.rows.append(failed(stage, f"{library} build", f"{error.code}: {error}"))
        return
    proof.dtypes.update(built_dtypes(report))
    words = {word.lower() for engine in report["engines"] for word in engine["targets"]}
    built = built_row(stage, report, sources.spec.precision, why_no_device(words))
    row = None if built.status == "failed" else on_device_row(sources, computed, work.path, library, proof, say)
    proof.rows.append(replace(row, figures={**built.figures, **row.figures}) if row else built)


def libraries(spec: ModelSpec, target: str) -> list[str]:
    """TensorRT families that a conversion builds: the spec's; for target gpu the one of Triton's own backend."""
    return ["tensorrt"] if target == "gpu" else [name for name in spec.engines if name in TENSORRT]


def require_device() -> None:
    """Raise BuildFailed, before any work, where no GPU could run what target gpu is certified by."""
    try:
        compute_capability()
    except EngineFailed as error:
        hint = "convert on the machine that has the GPU; --target cpu builds TensorRT-RTX engines anywhere"
        raise BuildFailed(f"target gpu: {error.message}", hint=hint) from error


def on_device_row(
    sources: Sources, computed: Computed, folder: Path, library: str, proof: Proof, say: Say
) -> StageRow | None:
    """The library's engine of `folder`, run on this machine's GPU; None where there is no GPU, or no engine for it."""
    words = {word for path in folder.glob(ARTIFACTS[library]) for word in path.name.split(".")[2].split("_")}
    if why_no_device(words):
        return None
    try:
        with opened(library, folder) as engine:
            row = one_engine_row(sources, computed, engine, say)
            proof.dtypes[f"{library} on the device"] = dtypes_of(engine.info, engine)
            return row
    except EngineFailed as error:
        return failed(f"engine_{library}", f"{library} on the device against the checkpoint", str(error))


def why_no_device(built: Set[str]) -> str:
    """Why no engine built for `built` (sm86 ...) can run on this machine; '' where one can."""
    try:
        here = f"sm{compute_capability()}"
    except EngineFailed as error:
        return error.message
    return "" if here in built else f"this machine's GPU is {here}, engines were built for {', '.join(sorted(built))}"


def _engine_with_its_precision(
    sources: Sources,
    computed: Computed,
    folder: Path,
    name: EngineName,
    wanted: tuple[str, ...],
    proof: Proof,
    say: Say,
) -> tuple[StageRow, str, EngineInfo | None]:
    tried: dict[str, StageRow] = {}
    infos: dict[str, EngineInfo] = {}
    for precision in wanted:
        try:
            with opened(name, folder, precision) as engine:
                tried[precision] = one_engine_row(sources, computed, engine, say)
                infos[precision] = engine.info
                proof.dtypes[f"{name}_{precision}"] = dtypes_of(engine.info, engine)
        except EngineFailed as error:
            tried[precision] = failed(f"engine_{name}", f"{name} in {precision}", str(error))
    best = next((p for p in wanted if tried[p].status == "passed"), wanted[-1])
    others = {f"in_{p}": row.status if row.status == "passed" else row.reason for p, row in tried.items() if p != best}
    return replace(tried[best], figures={**tried[best].figures, **others}), best, infos.get(best)


def precisions(name: str) -> tuple[str, ...]:
    """What an engine is tried in on this machine, the wanted one first; f32 is proven as well, for other CPUs."""
    return ("bf16", "f32") if name == "openvino" and bf16_supported() else ("f32",)


def one_engine_row(sources: Sources, computed: Computed, engine: Engine, say: Say) -> StageRow:
    """One open engine against the checkpoint, alone and in shuffled batches."""
    spec, stage = sources.spec, f"engine_{engine.info.engine}"
    sizes = batch_sizes(spec)
    meter = Meter(say, stage, len(computed.reference) * (1 + len(sizes)))
    return engine_row(
        stage, engine.info, meter.counting(engine.run), computed.reference, judge_of(sources),
        gate_of(stage, sources.task, spec), expected=expected_inputs(spec), batches=sizes,
    )  # fmt: skip


def fast_row(sources: Sources, computed: Computed, folder: Path, proof: Proof) -> StageRow:
    """The fast preprocessing through the served engine, by decisions. Runs only where the spec asks for it."""
    rule = sources.spec.preprocess
    if rule is None or computed.prepared is None or not rule.fast:
        return not_run(FAST, FAST_COMPARED, "not asked for (preprocess.fast)")
    gate, samples = decisions_only(gate_of(FAST, sources.task, sources.spec)), sources.samples.samples
    try:
        with opened(proof.engine, folder, proof.precision) as engine:
            return fast_decisions_row(engine.run, computed.reference, samples, rule, judge_of(sources), gate)
    except LockstepError as error:
        return failed(FAST, FAST_COMPARED, str(error))


def fact_rows(sources: Sources, computed: Computed) -> list[StageRow]:
    """labels, constants."""
    return [
        labels_row(sources.labels, computed.report.source_labels, _classes(sources, computed)),
        constants_row(computed.report.constants, options_in_effect(sources)),
    ]


def _classes(sources: Sources, computed: Computed) -> int | None:
    task = sources.task
    return task.count_classes(computed.reference.outputs[0], sources.spec) if isinstance(task, CountsClasses) else None


def options_in_effect(sources: Sources) -> dict[str, Any]:
    """The task's options and request parameters (score_threshold ...) with their defaults filled in."""
    values = {n: v for n, v in parse_parameters(sources.task, sources.spec, {}).items() if v is not None}
    options = getattr(sources.task, "options_model", None)
    found = options.model_validate(sources.spec.options).model_dump() if options else dict(sources.spec.options)
    return {**values, **found}


@contextlib.contextmanager
def opened(name: str, folder: Path, precision: str | None = None) -> Iterator[Engine]:
    """An engine on the files of `folder`, closed afterwards."""
    engine = open_engine(name, folder, threads=1, precision=precision)
    try:
        yield engine
    finally:
        engine.close()


def batch_sizes(spec: ModelSpec) -> tuple[int, ...]:
    """The batch sizes that are tried besides 1: the optimal and the largest of the profile."""
    return tuple(sorted({spec.batch.opt, spec.batch.max} - {1}))


def expected_inputs(spec: ModelSpec) -> tuple[TensorSpec, ...]:
    """The network's inputs without the batch axis; free sides are -1."""
    return tuple(
        TensorSpec(t.name, t.datatype, tuple(-1 if axis in t.dynamic else side for axis, side in enumerate(t.shape)))
        for t in network_inputs(spec)
    )


def dtypes_of(info: EngineInfo, engine: Engine | None = None) -> dict[str, Any]:
    """dtypes of every input, output and (where the runtime tells) layer, with where they were read."""
    told: dict[str, Any] = {
        "read_from": info.dtypes_from,
        "precision": info.precision,
        "library": f"{info.engine} {info.library_version}",
    }
    told |= {f"input {t.name}": f"{t.datatype} {list(t.shape)}" for t in info.inputs}
    told |= {f"output {t.name}": f"{t.datatype} {list(t.shape)}" for t in info.outputs}
    layers = getattr(engine, "layers", None)
    if layers is not None:
        told |= {f"layer {layer.name} ({layer.kind})": layer.dtype for layer in layers()}
    return told


def sample_record(samples: SampleSet, computed: Computed) -> list[dict[str, Any]]:
    """Name, hash of the file, and hash of the uint8 pixels before normalising."""
    record: list[dict[str, Any]] = [{"name": s.name, "sha256": s.sha256} for s in samples.samples]
    for entry, prepared in zip(record, computed.prepared or (), strict=False):
        entry["pixels_sha256"] = prepared.sha256
    return record
