"""The steps of a model that Triton runs as an ensemble: preprocess -> `<model>_engine` -> postprocess.

On a GPU the engine step is Triton's own `tensorrt_plan`; where there is none it is `EngineStep`, so the topology is the
same. The steps read the certified version that lies in the ensemble's own folder beside theirs. What the
postprocessing has to know of a picture (transform, size, roi, parameters, times) crosses as `meta`, UINT8 JSON.
"""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import orjson

from serving.backend import (
    RESULT,
    arrays_of,
    error_response,
    open_served_model,
    parameters_of,
    real_version_dir,
    response,
    samples_of,
    tensors_of,
)
from serving.bundle import ModelBundle
from serving.config import load_settings
from serving.errors import BodyInvalid, EngineFailed, ServingError
from serving.preprocess.limits import DecodeLimits
from serving.served_model import Sample, ServedModel
from serving.types import Array, EngineInfo, ImageSize, ImageTransform

META = "meta"
PREPROCESS, ENGINE, POSTPROCESS = "_preprocess", "_engine", "_postprocess"


class EngineElsewhere:
    """Stands where a model has its engine, in a step that has none."""

    def __init__(self, bundle: ModelBundle) -> None:
        self.info = EngineInfo(bundle.engine, "", "", bundle.precision, bundle.engine_inputs, bundle.engine_outputs)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Never called: another step of the ensemble runs the engine."""
        raise EngineFailed(f"{self.info.engine}: the engine is another step of the ensemble")

    def close(self) -> None:
        """Nothing to give back."""


class _Step:
    """What the steps share: the bundle beside them, and answers request by request."""

    suffix = ""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Find the ensemble's version beside this step's folder. Raises CertificateRefused."""
        self._pb: Any = importlib.import_module("triton_python_backend_utils")
        cv2.setNumThreads(1)
        config = json.loads(args["model_config"])["parameters"]
        name = args["model_name"].removesuffix(self.suffix)
        self._version_dir = real_version_dir(Path(args["model_repository"]).parent / name / args["model_version"])
        self._target = config["target"]["string_value"]
        self._settings = load_settings().settings
        self._open()

    def _open(self) -> None:
        settings = self._settings
        version_dir = self._version_dir
        bundle = ModelBundle.staging(version_dir) if settings.staging else ModelBundle.load(version_dir, self._target)
        limits = DecodeLimits(max_pixels=settings.max_pixels, max_side=settings.max_side)
        self._model = ServedModel(bundle, EngineElsewhere(bundle), limits)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each request; an error is its own."""
        return [self._caught(self._answer, request) for request in requests]

    def finalize(self) -> None:
        """Give back what the step opened."""
        self._model.engine.close()

    def _answer(self, request: Any) -> dict[str, Array]:
        raise NotImplementedError

    def _caught(self, step: Callable[[Any], dict[str, Array]], request: Any) -> Any:
        try:
            return response(self._pb, step(request))
        except ServingError as error:
            return error_response(self._pb, error)
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            self._pb.Logger.log_error(f"{self._model.bundle.name}{self.suffix}: {error!r}")
            return error_response(self._pb, EngineFailed(f"{self._model.bundle.name}: a step failed; see the log"))


class PreprocessStep(_Step):
    """`image` or `frame` -> the engine's input and `meta`."""

    suffix = PREPROCESS

    def _answer(self, request: Any) -> dict[str, Array]:
        samples = list(samples_of(tensors_of(request), parameters_of(request)))
        if len(samples) != 1:
            raise BodyInvalid(f"expected one picture a request, got {len(samples)}")
        sample = self._model.make_sample(samples[0])
        meta = np.frombuffer(orjson.dumps(meta_of(sample)), np.uint8)
        return {**{name: array[None] for name, array in sample.tensors.items()}, META: meta[None]}


class EngineStep(_Step):
    """The engine as a Python-backend model, for machines and engines that Triton has no backend for."""

    suffix = ENGINE

    def _open(self) -> None:
        self._model = open_served_model(self._version_dir, self._settings, self._target)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """All requests of Triton's batch through the engine at once."""
        try:
            calls = [tensors_of(request) for request in requests]
            batch = {name: np.concatenate([call[name] for call in calls]) for name in calls[0]}
            outputs = self._model.engine.run(batch)
        except ServingError as error:
            return [error_response(self._pb, error)] * len(requests)
        ends = np.cumsum([len(next(iter(call.values()))) for call in calls])[:-1]
        parts = {name: np.split(array, ends) for name, array in outputs.items()}
        return [response(self._pb, {n: rows[i] for n, rows in parts.items()}) for i in range(len(requests))]


class PostprocessStep(_Step):
    """The engine's outputs and `meta` -> the task's tensors and `result`."""

    suffix = POSTPROCESS

    def _answer(self, request: Any) -> dict[str, Array]:
        tensors = tensors_of(request)
        meta = json.loads(tensors.pop(META)[0].tobytes())
        infer_ms = (time.monotonic() - meta["sent"]) * 1e3
        answer = self._model.finish(sample_from(meta), 0, tensors, infer_ms)
        wanted = set(request.requested_output_names())
        return {name: array[None] for name, array in arrays_of(self._model, answer, wanted).items()}


def meta_of(sample: Sample) -> dict[str, Any]:
    """What the postprocessing needs of a sample, as JSON. `sent`: CLOCK_MONOTONIC, one clock for all steps."""
    transform = sample.transform
    return {
        "parameters": sample.parameters,
        "transform": transform
        and {
            "source": [transform.source.width, transform.source.height],
            "model": [transform.model.width, transform.model.height],
            "scale": transform.scale,
            "offset": transform.offset,
        },
        "image": sample.image and [sample.image.width, sample.image.height],
        "roi": sample.roi,
        "timings_ms": sample.timings_ms,
        "pixels_sha256": sample.pixels_sha256,
        "sent": time.monotonic(),
    }


def sample_from(meta: Mapping[str, Any]) -> Sample:
    """The sample that `meta_of` described, without its tensors."""
    told = meta["transform"]
    transform = told and ImageTransform(
        ImageSize(*told["source"]), ImageSize(*told["model"]), tuple(told["scale"]), tuple(told["offset"])
    )
    return Sample(
        parameters=dict(meta["parameters"]),
        transform=transform or None,
        pixels_sha256=meta["pixels_sha256"],
        image=ImageSize(*meta["image"]) if meta["image"] else None,
        roi=tuple(meta["roi"]) if meta["roi"] else None,
        timings_ms=dict(meta["timings_ms"]),
    )


__all__ = ["META", "RESULT", "EngineStep", "PostprocessStep", "PreprocessStep"]
