"""One model in one process: bytes or pixels in, typed results out. The Triton backend, `lockstep infer`, the streams
and the certificate all call this one flow, so they cannot differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from serving.bundle import UNCERTIFIED, ModelBundle
from serving.errors import EngineFailed, ParameterInvalid, ServingError
from serving.hearing import hear
from serving.ports import Engine
from serving.preprocess.audio import SoundLimits
from serving.preprocess.decode import checked_header, decode_checked
from serving.preprocess.fast import Reduced, prepare_fast, prepare_reduced, reduced_of
from serving.preprocess.header import ImageHeader
from serving.preprocess.limits import DecodeLimits
from serving.preprocess.reference import Prepared, prepare
from serving.preprocess.region import crop, parse_roi
from serving.spec import PreprocessSpec
from serving.stage_costs import StageCosts
from serving.tasks import task_named
from serving.tasks.base import moved, parse_parameters
from serving.types import Array, ImageSize, ImageTransform, InferRequest, InferResponse, PixelArray


@dataclass(slots=True)
class Sample:
    """One request on its way through the batch."""

    parameters: dict[str, Any]
    transform: ImageTransform | None = None
    pixels_sha256: str = ""
    tensors: Mapping[str, Array] = field(default_factory=dict)
    image: ImageSize | None = None
    roi: tuple[int, int, int, int] | None = None
    timings_ms: dict[str, float] = field(default_factory=dict)
    sound: InferRequest | None = None


class ServedModel:
    """decode -> preprocess -> engine (one batch) -> task. One engine, one thread."""

    def __init__(
        self,
        bundle: ModelBundle,
        engine: Engine,
        limits: DecodeLimits | None = None,
        sound_limits: SoundLimits | None = None,
    ) -> None:
        self.bundle = bundle
        self.engine = engine
        self.task = task_named(bundle.spec.task)
        self.costs = StageCosts()
        self._limits = limits or DecodeLimits()
        self._sound_limits = sound_limits or SoundLimits()

    def infer(self, requests: Sequence[InferRequest]) -> list[InferResponse | ServingError]:
        """Answer each request, in order. A request's error is its own; the others of the batch go on."""
        samples = [self._catch(self.make_sample, request) for request in requests]
        good = [s for s in samples if isinstance(s, Sample)]
        answers = iter(self._infer_batch(good))
        return [s if isinstance(s, ServingError) else next(answers) for s in samples]

    def document(self, response: InferResponse) -> dict[str, Any]:
        """The result document (docs/results.schema.json) of one response."""
        return self.bundle.document(response, self.task.to_document(response.result, self.bundle.labels))

    def close(self) -> None:
        """Give the engine back."""
        self.engine.close()

    @staticmethod
    def _catch(step: Any, *values: Any) -> Any:
        try:
            return step(*values)
        except ServingError as error:
            return error

    def make_sample(self, request: InferRequest) -> Sample:
        """Decode and preprocess; `finish` is the other half, where a server runs the engine itself.

        Raises InputError classes.
        """
        spec = self.bundle.spec
        sample = Sample(parse_parameters(self.task, spec, request.parameters))
        if spec.sound is not None:
            sample.sound = request
            return sample
        if request.tensors is not None:
            sample.tensors = request.tensors
            return sample
        if spec.preprocess is None:
            raise ParameterInvalid(f"{spec.name}: task raw takes named tensors, got a picture", hint="use /v2")
        prepared = self._prepare(request, sample, spec.preprocess)
        sample.transform = prepared.transform
        if self.bundle.certificate_id == UNCERTIFIED:
            sample.pixels_sha256 = prepared.sha256
        sample.tensors = {self.bundle.engine_inputs[0].name: prepared.tensor}
        return sample

    def _prepare(self, request: InferRequest, sample: Sample, rule: PreprocessSpec) -> Prepared:
        """Decode and preprocess, timed. A `fast` rule was certified as such: its row is part of the verdict."""
        roi, costs = request.parameters.get("roi"), self.costs
        with costs.spent("header") as read:
            header = checked_header(request.encoded, self._limits) if request.encoded is not None else None
        with costs.spent("decode") as decoded:
            source = _decode(request, header, rule if rule.fast and not roi else None)
        with costs.spent("preprocess") as done:
            if isinstance(source, Reduced):
                prepared = prepare_reduced(source, rule)
                sample.image = prepared.transform.source
            else:
                sample.image = ImageSize(source.shape[1], source.shape[0])
                sample.roi = parse_roi(roi, sample.image)
                prepared = (prepare_fast if rule.fast else prepare)(crop(source, sample.roi), rule)
        sample.timings_ms = {"decode": read.ms + decoded.ms, "preprocess": done.ms}
        return prepared

    def _infer_batch(self, samples: Sequence[Sample]) -> list[InferResponse | ServingError]:
        if not samples:
            return []
        if self.bundle.spec.sound is not None:
            return [self._catch(self._hear, sample) for sample in samples]
        shapes = {tuple((n, a.shape) for n, a in s.tensors.items()) for s in samples}
        if len(shapes) > 1:  # free input sizes: pictures of one size go together, one by one here
            return [answer for s in samples for answer in self._infer_batch([s])]
        with self.costs.spent("infer") as ran:
            outputs = self._catch(self._run_engine, samples)
        if isinstance(outputs, ServingError):
            return [outputs] * len(samples)
        infer_ms = ran.ms / len(samples)
        return [self._catch(self.finish, s, i, outputs, infer_ms) for i, s in enumerate(samples)]

    def _hear(self, sample: Sample) -> InferResponse:
        """One sound, window after window (`serving.hearing`)."""
        assert sample.sound is not None
        raw, times = hear(self.engine.run, sample.sound, self.bundle.spec, sample.parameters, self._sound_limits)
        for stage, ms in times.items():
            self.costs.seconds[stage] += ms / 1e3
        with self.costs.spent("postprocess") as done:
            result = self.task.postprocess(raw, None, self.bundle.spec, sample.parameters)
        return InferResponse(result, None, {**times, "postprocess": done.ms})

    def _run_engine(self, samples: Sequence[Sample]) -> dict[str, Array]:
        inputs = {n: np.stack([s.tensors[n] for s in samples]) for n in samples[0].tensors}
        self.costs.copied_bytes += sum(array.nbytes for array in inputs.values())
        outputs = self.engine.run(inputs)
        for name, array in outputs.items():
            if len(array) != len(samples):
                raise EngineFailed(f"{self.bundle.name}: output {name}: {len(samples)} rows in, {len(array)} out")
        return outputs

    def finish(self, sample: Sample, index: int, outputs: Mapping[str, Array], infer_ms: float) -> InferResponse:
        """Row `index` of the engine's outputs -> the response of its sample."""
        with self.costs.spent("postprocess") as done:
            raw = {name: array[index] for name, array in outputs.items()}
            result = self.task.postprocess(raw, sample.transform, self.bundle.spec, sample.parameters)
            if sample.roi:
                result = moved(self.task, result, offset=sample.roi[:2])
        timings = {**sample.timings_ms, "infer": infer_ms, "postprocess": done.ms}
        return InferResponse(result, sample.image, timings, sample.pixels_sha256)


def _decode(request: InferRequest, header: ImageHeader | None, fast: PreprocessSpec | None) -> Reduced | PixelArray:
    """The request's pixels; at a fraction of their size where a certified fast rule says so."""
    if request.encoded is None or header is None:
        assert request.frame is not None
        return request.frame
    return reduced_of(request.encoded, header, fast) if fast else decode_checked(request.encoded, header)
