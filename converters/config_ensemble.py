"""The GPU form of a model: preprocess -> `<model>_engine` -> postprocess as a Triton ensemble, from the same spec.

`tensorrt_plan` takes TensorRT engines proper; TensorRT-RTX engines run in the Python backend, as does the engine step
of the topology test on a CPU. See docs/triton.md and Triton's ensemble documentation
(https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/ensemble_models.html).
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from converters.config_pbtxt import (
    IMAGE_INPUTS,
    Word,
    dynamic_batching,
    input_of,
    parameter,
    render,
    room,
    served_outputs,
    tensor_of,
)
from converters.publish import STAGING, storage
from serving.backend_steps import ENGINE, META, POSTPROCESS, PREPROCESS
from serving.bundle import ModelBundle
from serving.errors import BuildFailed, SpecInvalid
from serving.spec import ModelSpec
from serving.types import TensorSpec

EngineBackend = Literal["tensorrt_plan", "python"]
_STEP_PY = """\"\"\"Loaded by Triton's Python backend.\"\"\"

from serving.backend_steps import {step} as TritonPythonModel  # noqa: F401
"""
_META = TensorSpec(META, "UINT8", (-1,))
PLAN = "model.plan"


def ensemble_configs(
    bundle: ModelBundle, engine: EngineBackend = "tensorrt_plan", target: str = "gpu"
) -> dict[str, str]:
    """config.pbtxt by model name: the ensemble under the model's own name, and its three steps.

    Raises SpecInvalid for task raw, whose tensors go to the engine as they are.
    """
    spec = bundle.spec
    if spec.task == "raw":
        raise SpecInvalid(f"{spec.name}: task raw has no steps around its engine: no ensemble is needed")
    inputs, outputs = (_without_batch(t) for t in (bundle.engine_inputs, bundle.engine_outputs))
    names = {part: spec.name + part for part in (PREPROCESS, ENGINE, POSTPROCESS)}
    policy = _policy(bundle)
    pictures = [input_of(t, optional=True) for t in IMAGE_INPUTS]
    configs: dict[str, dict[str, Any]] = {
        spec.name: {
            "platform": "ensemble",
            # Here an input is only named: how it is batched is the first step's affair.
            "input": [{k: v for k, v in p.items() if k != "allow_ragged_batch"} for p in pictures],
            "output": [tensor_of(t) for t in served_outputs(spec)],
            "ensemble_scheduling": {"step": _steps(names, inputs, outputs, spec)},
            "parameters": [room(spec)],
        },
        names[PREPROCESS]: {
            "backend": "python",
            "input": pictures,
            "output": [*(tensor_of(t) for t in inputs), tensor_of(_META)],
            **_python(spec, target),
        },
        names[ENGINE]: _engine(spec, inputs, outputs, engine, target),
        names[POSTPROCESS]: {
            "backend": "python",
            "input": [*(tensor_of(t) for t in outputs), {**tensor_of(_META), "allow_ragged_batch": True}],
            "output": [tensor_of(t) for t in served_outputs(spec)],
            **_python(spec, target),
        },
    }
    head = {"max_batch_size": spec.batch.max, **policy}
    return {name: render({"name": name, **head, **config}) for name, config in configs.items()}


def write_ensemble(
    bundle: ModelBundle, repository: Path, engine: EngineBackend = "tensorrt_plan", target: str = "gpu"
) -> list[str]:
    """Write the four models into an empty repository; their names, the one to load first.

    The certified version is linked into the ensemble's folder, untouched; the steps find it there. Raises BuildFailed
    where the version holds no engine for `tensorrt_plan`.
    """
    steps = {PREPROCESS: "PreprocessStep", ENGINE: "EngineStep", POSTPROCESS: "PostprocessStep"}
    configs = ensemble_configs(bundle, engine, target)
    version = str(bundle.version)
    for name, text in configs.items():
        part = name.removeprefix(bundle.name)
        folder = repository / name
        folder.mkdir(parents=True)
        (folder / "config.pbtxt").write_text(text, "utf-8")
        if not part:
            (folder / version).symlink_to(bundle.version_dir.resolve())
            continue
        (folder / version).mkdir()
        if part == ENGINE and engine == "tensorrt_plan":
            (folder / version / PLAN).symlink_to(_plan(bundle))
        else:
            (folder / version / "model.py").write_text(_STEP_PY.format(step=steps[part]), "utf-8")
    return list(configs)


def publish_ensemble(bundle: ModelBundle, repository: Path) -> Path:
    """The ensemble of a version certified for target gpu, in `<repository>.gpu`; that folder's path.

    An older version's steps are replaced, its own folder last. Raises BuildFailed, StorageFailed; SpecInvalid
    for task raw.
    """
    home = repository.with_name(f"{repository.name}.gpu")
    aside = home / STAGING / bundle.name
    with storage(f"{home}: publishing the ensemble"):
        shutil.rmtree(aside, ignore_errors=True)
        for name in reversed(write_ensemble(bundle, aside)):
            shutil.rmtree(home / name, ignore_errors=True)
            (aside / name).rename(home / name)
        aside.rmdir()
    return home


def _plan(bundle: ModelBundle) -> Path:
    plans = sorted(bundle.version_dir.glob("engine.tensorrt.*.plan"))
    if not plans:
        raise BuildFailed(f"{bundle.version_dir}: no engine.tensorrt.*.plan", hint="build it on the GPU it runs on")
    return plans[0].resolve()


def _steps(
    names: dict[str, str], inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], spec: ModelSpec
) -> list[dict[str, Any]]:
    pictures, meta = [t.name for t in IMAGE_INPUTS], [META]
    into, out = [t.name for t in inputs], [t.name for t in outputs]
    served = [t.name for t in served_outputs(spec)]
    # Tensors between the steps are prefixed: a network's output may be called as an output of the task.
    return [
        _step(names[PREPROCESS], _same(pictures), _inner([*into, *meta])),
        _step(names[ENGINE], _inner(into), _inner(out, "raw_")),
        _step(names[POSTPROCESS], {**_inner(out, "raw_"), **_inner(meta)}, _same(served)),
    ]


def _same(names: Sequence[str]) -> dict[str, str]:
    return {name: name for name in names}


def _inner(names: Sequence[str], prefix: str = "step_") -> dict[str, str]:
    return {name: prefix + name for name in names}


def _step(model: str, inputs: dict[str, str], outputs: dict[str, str]) -> dict[str, Any]:
    return {
        "model_name": model,
        "model_version": -1,
        "input_map": [{"key": key, "value": value} for key, value in inputs.items()],
        "output_map": [{"key": key, "value": value} for key, value in outputs.items()],
    }


def _engine(
    spec: ModelSpec, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], engine: EngineBackend, target: str
) -> dict[str, Any]:
    tensors = {"input": [tensor_of(t) for t in inputs], "output": [tensor_of(t) for t in outputs]}
    if engine == "python":
        return {"backend": "python", **tensors, **_python(spec, target, count=1)}
    return {
        "platform": "tensorrt_plan",
        "default_model_filename": PLAN,
        **tensors,
        "dynamic_batching": dynamic_batching(spec),
        "instance_group": [{"kind": Word("KIND_GPU"), "count": spec.serving.instances}],
    }


def _python(spec: ModelSpec, target: str, count: int | None = None) -> dict[str, Any]:
    return {
        "dynamic_batching": dynamic_batching(spec),
        "instance_group": [{"kind": Word("KIND_CPU"), "count": count or spec.serving.instances}],
        "parameters": [parameter("target", target)],
    }


def _policy(bundle: ModelBundle) -> dict[str, Any]:
    return {"version_policy": {"specific": {"versions": [bundle.version]}}}


def _without_batch(tensors: Sequence[TensorSpec]) -> list[TensorSpec]:
    return [TensorSpec(t.name, t.datatype, t.shape[1:] or (1,)) for t in tensors]
