"""From an outcome to its record on `results`."""

from __future__ import annotations

from dataclasses import replace

from serving.frames import Posting
from serving.records import ResultMessage
from serving.records.results import FrameTimes, ModelFacts
from serving.roles.jobs import Job
from serving.streams.worker import Pipeline
from serving.tasks import task_named
from serving.tasks.base import moved


def result_message(pipeline: Pipeline, job: Job, posting: Posting) -> ResultMessage:
    """The record; results in pixels of the source's picture, whatever size the payload had."""
    frame, about, outcome = job.frame, job.message, posting.outcome
    if outcome.result is not None and about.scale != 1:
        found = moved(task_named(pipeline.task), outcome.result.result, float(1 / about.scale))
        outcome = replace(outcome, result=replace(outcome.result, result=found))
    answer = pipeline.document(outcome.result.result) if outcome.result is not None else {}
    times = FrameTimes(
        frame.pts,
        frame.time_base,
        frame.raw_pts,
        frame.dts,
        frame.pts_source,
        frame.capture_ns,
        frame.capture_quality,
    )
    return ResultMessage(
        replace(posting, outcome=outcome),
        ModelFacts(pipeline.name, pipeline.model_version, pipeline.task, pipeline.certificate_id),
        times,
        answer,
        (about.width, about.height) if about.width and about.height else None,
        about.traceparent,
    )
