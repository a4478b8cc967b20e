"""The Triton Python-backend model: wiring between Triton's requests and `ServedModel`. One object per instance.

`model_repository/<model>/<version>/model.py` only imports `TritonPythonModel` from here. Inputs: `image` UINT8 [1, n]
(an encoded picture) or `frame` UINT8 [1, h, w, 3], or a raw model's own tensors; outputs: the task's tensors and
`result` UINT8 [1, n], our JSON. An error belongs to its own request and reads `lockstep:<code>: text`.
"""

from __future__ import annotations

import importlib
import json
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import orjson

from serving.backend_metrics import BackendMetrics
from serving.bundle import SPEC, ModelBundle, read_pinned
from serving.config import Settings, load_settings
from serving.dlpack import from_triton, to_triton
from serving.engines import open_engine
from serving.errors import BodyInvalid, EngineFailed, InputError, ServingError
from serving.gallery import Galleries
from serving.pipelines import PipelineModel
from serving.preprocess.audio import SoundLimits
from serving.preprocess.limits import DecodeLimits
from serving.served_model import ServedModel
from serving.tuning import read_tuning
from serving.types import Array, InferRequest, InferResponse

RESULT = "result"
Answer = InferResponse | ServingError
Served = ServedModel | PipelineModel


def real_version_dir(shown: Path) -> Path:
    """The version in the repository behind a folder of links (serving/triton/runtime.py), or the folder itself."""
    return (shown / SPEC).resolve().parent


def open_served_model(version_dir: Path, settings: Settings, target: str = "cpu") -> ServedModel:
    """The certified model of a version with its engine. Raises CertificateRefused, EngineFailed."""
    bundle = ModelBundle.staging(version_dir) if settings.staging else ModelBundle.load(version_dir, target)
    return _open_model(bundle, settings)


def open_served(version_dir: Path, settings: Settings, target: str = "cpu") -> Served:
    """A model or a pipeline of models, whichever the version is. Raises as `open_served_model`."""
    bundle = ModelBundle.staging(version_dir) if settings.staging else ModelBundle.load(version_dir, target)
    return _open(bundle, settings, target)


def _open(bundle: ModelBundle, settings: Settings, target: str) -> Served:
    return open_pipeline(bundle, settings, target) if bundle.spec.steps else _open_model(bundle, settings)


def open_pipeline(bundle: ModelBundle, settings: Settings, target: str = "cpu") -> PipelineModel:
    """The pipeline with the very versions of the models that it was certified with. Raises CertificateRefused."""
    pinned = read_pinned(bundle.version_dir, target)
    models = {model.name: _open(model, settings, target) for model in pinned}
    limits = DecodeLimits(max_pixels=settings.max_pixels, max_side=settings.max_side)
    return PipelineModel(bundle, models, Galleries(settings.galleries), limits)


def _open_model(bundle: ModelBundle, settings: Settings) -> ServedModel:
    version_dir = bundle.version_dir
    tuning = read_tuning(version_dir)
    threads = tuning.threads if tuning else bundle.threads
    engine = open_engine(str(bundle.engine), version_dir, threads, bundle.precision)
    limits = DecodeLimits(max_pixels=settings.max_pixels, max_side=settings.max_side)
    return ServedModel(bundle, engine, limits, SoundLimits(max_seconds=settings.max_sound_s))


class TritonPythonModel:
    """What Triton's stub looks for by name."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the version Triton names. Raising here makes Triton report the model as not loaded, with the text."""
        self._pb: Any = importlib.import_module("triton_python_backend_utils")
        cv2.setNumThreads(1)  # instances are the parallelism; a pool per instance would fight over the cores
        version_dir = real_version_dir(Path(args["model_repository"]) / args["model_version"])
        target = "gpu" if args.get("model_instance_kind") == "GPU" else "cpu"
        self._model = open_served(version_dir, load_settings().settings, target)
        self._metrics = BackendMetrics(self._pb, self._model.bundle.name)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer a batch, in order."""
        calls = [self._read(request) for request in requests]
        answers = iter(self._infer([s for call in calls if isinstance(call, list) for s in call]))
        self._metrics.tell(self._model.costs)
        return [
            self._error(call) if isinstance(call, ServingError) else self._respond(request, answers, len(call))
            for request, call in zip(requests, calls, strict=True)
        ]

    def finalize(self) -> None:
        """Give the engine back."""
        self._model.close()

    def _read(self, request: Any) -> list[InferRequest] | ServingError:
        try:
            return list(samples_of(tensors_of(request), parameters_of(request)))
        except ServingError as error:
            return error
        except (ValueError, RuntimeError, TypeError) as error:
            return BodyInvalid(f"request could not be read: {error}")

    def _infer(self, samples: Sequence[InferRequest]) -> Sequence[Answer]:
        """Where the batch failed as a whole, each of it is asked once more, alone: one's values may have caused it."""
        answers = list(self._asked(samples))
        failed = [i for i, answer in enumerate(answers) if isinstance(answer, EngineFailed)]
        for i in failed if len(failed) > 1 else ():
            (answers[i],) = self._asked([samples[i]])
        return answers

    def _asked(self, samples: Sequence[InferRequest]) -> Sequence[Answer]:
        try:
            return self._model.infer(samples)
        except ServingError as error:
            return [error] * len(samples)
        except Exception:  # noqa: BLE001  one request must not end the others; the text stays in our log
            self._pb.Logger.log_error(traceback.format_exc())
            return [EngineFailed(f"{self._model.bundle.name}: failed unexpectedly; see the server's log")] * len(
                samples
            )

    def _respond(self, request: Any, answers: Iterator[Answer], count: int) -> Any:
        own = [next(answers) for _ in range(count)]
        failed = next((answer for answer in own if isinstance(answer, ServingError)), None)
        if failed is not None:
            return self._error(failed)
        wanted = set(request.requested_output_names())
        try:
            arrays = stack([arrays_of(self._model, a, wanted) for a in own if isinstance(a, InferResponse)])
        except ServingError as error:
            return self._error(error)
        return response(self._pb, arrays)

    def _error(self, error: ServingError) -> Any:
        return error_response(self._pb, error)


def tensors_of(request: Any) -> dict[str, Array]:
    """A request's inputs by name, as views."""
    return {tensor.name(): from_triton(tensor) for tensor in request.inputs()}


def parameters_of(request: Any) -> Mapping[str, Any]:
    """A request's parameters; Triton hands them over as JSON."""
    parameters = request.parameters()
    given: Mapping[str, Any] = parameters if isinstance(parameters, dict) else json.loads(parameters or "{}")
    return given


def response(pb_utils: Any, arrays: Mapping[str, Array]) -> Any:
    """Arrays with their batch axis as Triton's response."""
    return pb_utils.InferenceResponse([to_triton(pb_utils, name, array) for name, array in arrays.items()])


def error_response(pb_utils: Any, error: ServingError) -> Any:
    """An error as Triton's response: `lockstep:<code>: text`."""
    kind = pb_utils.TritonError
    code = kind.INVALID_ARG if isinstance(error, InputError) else kind.INTERNAL
    return pb_utils.InferenceResponse(error=kind(f"lockstep:{error.code}: {error}", code))


def arrays_of(model: Served, answer: InferResponse, wanted: set[str]) -> dict[str, Array]:
    """The wanted outputs of one sample, without a batch axis: typed tensors and the result document as JSON."""
    arrays: dict[str, Array] = {}
    if wanted - {RESULT}:
        tensors = model.task.to_tensors(answer.result, model.bundle.spec)
        arrays = {n: np.atleast_1d(a) for n, a in tensors.items() if n in wanted}
    if RESULT in wanted:
        arrays[RESULT] = np.frombuffer(orjson.dumps(model.document(answer)), np.uint8)
    return arrays


def samples_of(tensors: Mapping[str, Array], parameters: Mapping[str, Any]) -> Iterator[InferRequest]:
    """The samples of one request: one a row of the batch axis. Raises BodyInvalid."""
    pictures = [name for name in ("image", "frame", "audio") if name in tensors]
    if len(pictures) > 1:
        raise BodyInvalid(f"expected one input with the sample's bytes or pixels, got {' and '.join(pictures)}")
    if not tensors:
        raise BodyInvalid("expected one of the model's inputs, got none")
    sizes = {len(array) for array in tensors.values()}
    if len(sizes) != 1 or 0 in sizes:
        raise BodyInvalid(f"expected inputs of one batch size of at least 1, got {sorted(sizes)}")
    for row in range(sizes.pop()):
        sample = {name: array[row] for name, array in tensors.items()}
        if "frame" not in pictures and pictures:
            yield InferRequest(encoded=sample[pictures[0]].tobytes(), parameters=parameters)
        elif "frame" in pictures:
            yield InferRequest(frame=sample["frame"], parameters=parameters)
        else:
            yield InferRequest(tensors=sample, parameters=parameters)


def stack(rows: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Samples' outputs with the batch axis in front. JSON is padded with spaces; other shapes must agree.

    Raises BodyInvalid where rows of one request have different shapes (two pictures with different numbers of boxes).
    """
    stacked = {}
    for name in rows[0]:
        arrays = [row[name] for row in rows]
        if name == RESULT:
            longest = max(map(len, arrays))
            arrays = [np.pad(a, (0, longest - len(a)), constant_values=ord(" ")) for a in arrays]
        if len({a.shape for a in arrays}) > 1:
            raise BodyInvalid(f"output {name} has another shape for each picture", hint="send one picture a request")
        stacked[name] = np.stack(arrays)
    return stacked
