"""From the checkpoint to the files of a version, each step reused where an earlier run finished it.

checkpoint (limited child) -> model.onnx -> model.fp16.onnx -> engines. An error is told with the stage it belongs to.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from converters.arrays import load_samples, save_samples
from converters.child import run_child
from converters.job import REFERENCE, REPORT, TRAINING, ChildJob, ChildReport
from converters.meter import Say
from converters.publish import storage
from converters.rows_network import Reference
from converters.rows_preprocess import TrainingSide
from converters.samples import hear_all, prepare_all, read_tensors
from converters.sequence import step_samples
from converters.signature import network_inputs
from converters.sources import Sources
from converters.work_folder import WorkFolder
from serving.bundle import sha256_of
from serving.errors import CheckpointRefused, ConversionError, OperatorUnsupported, SpecInvalid, StorageFailed
from serving.preprocess.reference import Prepared
from serving.types import Array

CHILD = "child"
MODEL, MODEL_FP16, OPENVINO = "model.onnx", "model.fp16.onnx", "engine.openvino.xml"


@dataclass(frozen=True, slots=True)
class Computed:
    """What the checkpoint is and computed. `prepared` and `training` are None where the task has no pictures or the
    spec no training side; the reference's inputs are the training side's tensors where it gives them."""

    report: ChildReport
    prepared: Sequence[Prepared] | None
    training: Sequence[TrainingSide] | None
    reference: Reference


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Put the stage's name before the message of what goes wrong in it; class and code stay.

    What is no fault of the model (the spec's own words, the disk) is told as it is.
    """
    try:
        yield
    except (SpecInvalid, StorageFailed):
        raise
    except ConversionError as error:
        raise type(error)(f"stage {name}: {error.message}", hint=error.hint) from error


def computed_by_checkpoint(sources: Sources, work: WorkFolder, say: Say) -> Computed:
    """Load strictly, run and export in the limited child. Raises its ConversionError classes."""
    spec, names = sources.spec, sources.samples.names
    prepared = prepare_all(sources.samples, spec.preprocess) if spec.preprocess and spec.task != "raw" else None
    inputs = _inputs(sources, prepared)
    folder = work.path / CHILD

    def make() -> Mapping[str, Any]:
        with storage(f"{folder}: the samples"):
            folder.mkdir(exist_ok=True)
            save_samples(folder / "inputs.npz", inputs)
        files = prepared is not None or spec.sound is not None
        pictures = tuple(s.path.resolve() for s in sources.samples.samples) if files else ()
        job = ChildJob(
            "convert", spec, folder, sources.spec_path.resolve().parent, sources.checkpoint.resolve(),
            folder / "inputs.npz", pictures, cache=sources.cache,
        )  # fmt: skip
        try:
            report = run_child(job, progress=say)
            _require_unchanged(sources, report.load.sha256)
        except OperatorUnsupported as error:
            raise OperatorUnsupported(f"stage onnx_fp32: {error.message}", hint=error.hint) from error
        except ConversionError as error:
            with stage("load"):
                raise error
        return dict(json.loads(report.to_json()))

    told = work.stage("checkpoint", [f"{CHILD}/*.npz", f"{CHILD}/*.onnx", f"{CHILD}/{REPORT}"], make, say)
    report = ChildReport.from_json(json.dumps(told))
    training = _training(load_samples(folder / TRAINING)) if (folder / TRAINING).is_file() else None
    if report.training_tensors and training is not None:
        name = network_inputs(spec)[0].name
        inputs = [{name: side.tensor} for side in training if side.tensor is not None]
    transforms = [p.transform for p in prepared] if prepared is not None else [None] * len(names)
    reference = Reference(names, inputs, load_samples(folder / REFERENCE), transforms)
    return Computed(report, prepared, training, reference)


def _require_unchanged(sources: Sources, loaded: str) -> None:
    """Raise CheckpointRefused where the child read another file than the one that was hashed at the start.

    Its own hash is taken before it loads, so the file is hashed once more now that it has.
    """
    path, wanted = sources.checkpoint, sources.checkpoint_sha256
    for found in (loaded, sha256_of(path) if path.is_file() else "none: it is gone"):
        if found != wanted:
            raise CheckpointRefused(
                f"{path}: changed while it was read: expected SHA-256 {wanted} as at the start, got {found}",
                hint="training still writes this file: convert a copy of it, or wait until training is over",
            )


def _inputs(sources: Sources, prepared: Sequence[Prepared] | None) -> list[dict[str, Array]]:
    name = network_inputs(sources.spec)[0].name
    if sources.spec.sound is not None:
        return [{name: windows} for windows in hear_all(sources.samples, sources.spec.sound)]
    if prepared is None:
        return read_tensors(sources.samples, sources.spec)
    return [{name: p.tensor} for p in prepared]


def _training(samples: Sequence[Mapping[str, Array]]) -> list[TrainingSide]:
    return [TrainingSide(sample.get("pixels"), sample.get("tensor")) for sample in samples]


def graphs(sources: Sources, computed: Computed, work: WorkFolder, say: Say) -> dict[str, Any]:
    """model.onnx (checked, simplified) and model.fp16.onnx; their reports as JSON, by file name."""
    from converters.job import RAW_ONNX
    from converters.onnx_checked import checked_onnx
    from converters.precision import half_precision

    folder, spec = work.path, sources.spec
    say("simplify and check the ONNX graph")
    with stage("onnx_fp32"):
        raw = folder / CHILD / RAW_ONNX
        told = {MODEL: work.stage("onnx", [MODEL], lambda: asdict(checked_onnx(raw, folder / MODEL, spec)))}
    if spec.precision == "fp16":
        say("write half precision into the graph")
        inputs = step_samples(spec, computed.reference.inputs)
        with stage("onnx_fp16"):
            told[MODEL_FP16] = work.stage(
                "fp16",
                [MODEL_FP16],
                lambda: asdict(half_precision(folder / MODEL, folder / MODEL_FP16, inputs, spec)),
            )
    return told


def openvino(sources: Sources, work: WorkFolder, say: Say) -> None:
    """engine.openvino.xml and its .bin."""
    from converters.engine_from_onnx import openvino_from_onnx

    def make() -> Mapping[str, Any]:
        return {"path": openvino_from_onnx(work.path / MODEL, work.path).name}

    say("build the OpenVINO engine")
    with stage("engine_openvino"):
        work.stage("openvino", ["engine.openvino.*"], make)


def tensorrt(sources: Sources, library: str, work: WorkFolder, say: Say) -> dict[str, Any]:
    """TensorRT-RTX (or TensorRT) engines from the half precision graph; what was built and read back, as JSON."""
    from converters.tensorrt_build import tensorrt_from_onnx

    folder = work.path
    source = folder / (MODEL_FP16 if sources.spec.precision == "fp16" else MODEL)

    def make() -> Mapping[str, Any]:
        report = tensorrt_from_onnx(source, folder / MODEL, folder, sources.spec, library=library, progress=say)
        return asdict(report)

    say(f"build the {library} engines")
    return work.stage(library, [f"engine.{library}.*"], make)


def artifact_files(folder: Path) -> list[Path]:
    """The files of a version that the steps made."""
    patterns = (MODEL, MODEL_FP16, "engine.openvino.*", "engine.tensorrt*.trt", "engine.tensorrt*.plan")
    return sorted({path for pattern in patterns for path in folder.glob(pattern)})
