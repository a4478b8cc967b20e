"""Every runtime of a model behind the one door that scores are computed through (evaluation/family.py: Ask)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from evaluation.family import Ask, Item, Parameters
from serving.backend import Served
from serving.bundle import ModelBundle
from serving.cli.answer import open_model
from serving.config import Settings
from serving.errors import ServingError
from serving.served_model import ServedModel
from serving.spec import EngineName
from serving.types import InferRequest, TaskResult

CHECKPOINT, SERVED, ONNX = "checkpoint", "served", "onnx"
RUNTIMES = (SERVED, CHECKPOINT, ONNX, *get_args(EngineName))
AT_ONCE = 8


@contextlib.contextmanager
def opened(settings: Settings, name: str, runtime: str, server: str) -> Iterator[tuple[ModelBundle, Ask]]:
    """The newest certified version of `name`, asked through `runtime`, or through a running gateway.

    served: the engine that is served; onnx: the exported FP32 graph by ONNX Runtime; checkpoint: the module itself in
    the limited child; an engine's name: that engine. Raises NotFound, CertificateRefused, EngineFailed ...; the
    checkpoint's answers ConversionBusy while a converter is at work on the model.
    """
    model = open_model(settings, name)
    try:
        bundle = model.bundle
        if server:
            with _gateway(server, bundle) as ask:
                yield bundle, ask
        elif runtime == CHECKPOINT:
            yield bundle, _checkpoint(settings, bundle)
        elif runtime == SERVED:
            yield bundle, _local(model)
        else:
            with _engine(bundle, "onnxruntime" if runtime == ONNX else runtime) as other:
                yield bundle, _local(other)
    finally:
        model.close()


@contextlib.contextmanager
def _engine(bundle: ModelBundle, name: str) -> Iterator[ServedModel]:
    from serving.engines import open_engine

    precision = bundle.precision if name == bundle.engine else None
    engine = open_engine(name, bundle.version_dir, bundle.threads, precision)
    try:
        yield ServedModel(bundle, engine)
    finally:
        engine.close()


def _local(model: Served) -> Ask:
    size = max(1, min(AT_ONCE, model.bundle.spec.batch.max))

    def ask(items: Sequence[Item], asks: Sequence[Parameters]) -> Iterator[tuple[TaskResult, ...]]:
        for item in items:
            data = item.path.read_bytes()
            requests = [InferRequest(encoded=data, parameters=parameters) for parameters in asks]
            yield tuple(
                _result(item, answer)
                for start in range(0, len(requests), size)
                for answer in model.infer(requests[start : start + size])
            )

    return ask


def _result(item: Item, answer: Any) -> TaskResult:
    if isinstance(answer, ServingError):
        raise type(answer)(f"{item.path}: {answer.message}", hint=answer.hint) from answer
    result: TaskResult = answer.result
    return result


@contextlib.contextmanager
def _gateway(server: str, bundle: ModelBundle) -> Iterator[Ask]:
    from converters.runners import GatewayRunner
    from converters.samples import Sample

    with GatewayRunner(server, bundle.name, bundle.spec.task) as runner:

        def ask(items: Sequence[Item], asks: Sequence[Parameters]) -> Iterator[tuple[TaskResult, ...]]:
            for item in items:
                sample = Sample(item.name, item.path, item.path.read_bytes())
                yield tuple(runner.ask(sample, parameters).result for parameters in asks)

        yield ask


def _checkpoint(settings: Settings, bundle: ModelBundle) -> Ask:
    from converters.artifacts import computed_by_checkpoint
    from converters.certify import find_spec
    from converters.publish import model_lock
    from converters.sources import gather, of_pictures
    from converters.work_folder import WorkFolder
    from serving.cli.output import say
    from serving.tasks.base import parse_parameters

    def ask(items: Sequence[Item], asks: Sequence[Parameters]) -> Iterator[tuple[TaskResult, ...]]:
        made = gather(find_spec(bundle.name), settings.cache_dir, None, "cpu", say)
        sources = of_pictures(made, [item.path for item in items])
        with model_lock(settings.repository.resolve(), bundle.name):
            work = WorkFolder.of(settings.cache_dir, bundle.name, sources.content_sha256)
            reference = computed_by_checkpoint(sources, work, say).reference
        for outputs, transform in zip(reference.outputs, reference.transforms, strict=True):
            yield tuple(
                sources.task.postprocess(
                    outputs, transform, sources.spec, parse_parameters(sources.task, sources.spec, parameters)
                )
                for parameters in asks
            )

    return ask
