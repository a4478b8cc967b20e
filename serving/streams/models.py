"""Models of a stream: certified, opened here or in a Triton, with what a stream does with their answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from serving.bundle import ModelBundle
from serving.pipelines import PipelineModel
from serving.served_model import ServedModel
from serving.streams.appearance import Appearance, Looks
from serving.streams.remote import RemoteInfer
from serving.streams.sessions import gives_boxes, session_of
from serving.streams.worker import Infer, Pipeline
from serving.tasks import task_named
from serving.trackers import TRACKERS, NewTracker, check_looks, check_reid


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """A certified model and how to ask it."""

    bundle: ModelBundle
    infer: Infer
    close: Callable[[], None]


OpenModel = Callable[[str], OpenedModel]


def in_process(model: ServedModel | PipelineModel) -> OpenedModel:
    """The engine in this process; no server to start."""
    return OpenedModel(model.bundle, model.infer, model.close)


def through_triton(bundle: ModelBundle, url: str, timeout_s: float = 10.0) -> OpenedModel:
    """The same model served by Triton at `grpc://host:port`."""
    name, version, task = bundle.name, str(bundle.version), bundle.spec.task
    from serving.adapters.triton_pool import open_triton  # a tenth of a worker's start, for nothing without Triton

    infer = RemoteInfer(lambda: open_triton(url, [name]), name, version, bundle.certificate_id, task, timeout_s)
    return OpenedModel(bundle, infer, infer.close)


def open_pipelines(
    names: Sequence[str], open_model: OpenModel, stack: ExitStack, track: str = "", reid: str = "",
    parameters: Mapping[str, Any] | None = None,
) -> tuple[list[Pipeline], int]:  # fmt: skip
    """The models as pipelines of one worker, closed with `stack`, and the largest batch that all of them take.

    track: a tracker of `serving.trackers` or "". reid: an embedding model, for trackers that compare appearances.
    Raises ParameterInvalid for a tracker or an embedding model that does not suit them.
    """
    looks = open_looks(reid, open_model, stack) if reid else None
    pipelines, most = [], []
    for name in names:
        model = open_model(name)
        stack.callback(model.close)
        most.append(model.bundle.spec.batch.max)
        pipelines.append(pipeline_of(name, model, TRACKERS.get(track), looks, parameters or {}))
    check_looks("--track", track, (pipeline.name for pipeline in pipelines if pipeline.blind))
    return pipelines, min(most)


def open_looks(reid: str, open_model: OpenModel, stack: ExitStack) -> Looks:
    """The model that tells what boxes look like. Raises ParameterInvalid where it gives no embedding."""
    model = open_model(reid)
    stack.callback(model.close)
    check_reid(reid, model.bundle.spec.task)
    return Appearance(model.infer)


def pipeline_of(
    name: str, model: OpenedModel, new_tracker: NewTracker | None, looks: Looks | None, parameters: Mapping[str, Any]
) -> Pipeline:
    """A model on streams. new_tracker, looks: for what gives boxes; looks: where it does not tell them itself."""
    bundle, task = model.bundle, task_named(model.bundle.spec.task)
    boxes, own = gives_boxes(task, bundle.spec), bundle.spec.answer.appearance is not None
    return Pipeline(
        name=name,
        model_version=bundle.version,
        task=task.name,
        infer=model.infer,
        document=lambda result: task.to_document(result, bundle.labels),
        labels=bundle.labels,
        parameters=parameters,
        new_tracker=new_tracker if boxes else None,
        certificate_id=bundle.certificate_id,
        new_session=session_of(task, bundle.spec, parameters),
        session_last=getattr(task, "follows_tracks", False),
        looks=None if own else looks,
        blind=boxes and not own and looks is None,
        sound=bundle.spec.sound,
    )
