"""Rows about facts: how the checkpoint loaded, labels and constants by hash, the expected score, memory."""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from converters.parity import StageRow, Status, failed, not_run
from serving.errors import SpecInvalid
from serving.spec import ExpectSpec, ModelSpec
from serving.tasks.base import ReadsLabels, Task
from serving.types import TaskResult

NO_SOURCE = "no source"
NO_LABELS = "no labels"


def load_row(report: Mapping[str, Any], spec: ModelSpec) -> StageRow:
    """Strict load: any missing, unexpected, reshaped or dtype-changed key fails unless the spec names it."""
    compared = "keys of the checkpoint against those of the module"
    figures: dict[str, Any] = {}
    reasons = []
    for kind in ("missing", "unexpected", "reshaped", "dtype_changed"):
        names = [str(name) for name in report.get(kind, ())]
        figures[kind] = len(names)
        bad = [name for name in names if not _allowed(kind, name.split()[0], spec)]
        reasons += [f"{kind}: {', '.join(bad[:5])}{' ...' if len(bad) > 5 else ''}"] if bad else []
    if reasons:
        return failed("load", compared, "; ".join(reasons), **figures)
    figures["keys"] = report.get("keys", 0)
    return StageRow("load", "passed", compared, figures=figures)


def _allowed(kind: str, key: str, spec: ModelSpec) -> bool:
    """Whether the spec names the key for this kind of difference; a reshaped key is both missing and unexpected."""
    given = spec.checkpoint
    lists = {
        "missing": (given.allow_missing,),
        "unexpected": (given.allow_unexpected,),
        "reshaped": (given.allow_missing, given.allow_unexpected),
        "dtype_changed": (given.allow_dtype_change,),
    }[kind]
    return all(any(fnmatchcase(key, pattern) for pattern in patterns) for patterns in lists)


def labels_row(labels: Sequence[str], source: Sequence[str] | None, classes: int | None = None) -> StageRow:
    """Our labels against the network's number of classes and the source package's own list, in order.

    `classes` is None where the task cannot tell; a spec without labels is not counted.
    """
    compared = "labels against the network's classes and those of the source package"
    figures: dict[str, Any] = {"labels": len(labels), "sha256": digest(list(labels))}
    if classes is not None:
        figures["classes"] = classes
        if labels and len(labels) != classes:
            return failed("labels", compared, f"{len(labels)} labels, the network gives {classes} classes", **figures)
    if source is None:
        return not_run("labels", compared, NO_SOURCE, **figures)
    figures["source_sha256"] = digest(list(source))
    if list(labels) == list(source):
        return StageRow("labels", "passed", compared, figures=figures, samples=len(labels))
    if len(labels) != len(source):
        return failed("labels", compared, f"{len(labels)} labels, the source has {len(source)}", **figures)
    wrong = [i for i, pair in enumerate(zip(labels, source, strict=True)) if pair[0] != pair[1]]
    where = ", ".join(f"class {i} is {labels[i]!r}, the source says {source[i]!r}" for i in wrong[:3])
    return failed("labels", compared, f"{len(wrong)} of {len(labels)} differ: {where}", **figures)


def constants_row(source: Mapping[str, Any] | None, options: Mapping[str, Any]) -> StageRow:
    """Post-processing constants of the training side against the options in effect, by name and value.

    `options` are the task's options with its defaults filled in, so that a changed default is seen as well. A constant
    of the source that the task does not know is a failure: it would not be obeyed.
    """
    compared = "post-processing constants of the source package against the task's options in effect"
    if source is None:
        return not_run("constants", compared, NO_SOURCE)
    figures = {"sha256": digest(dict(source)), "constants": len(source)}
    wrong = []
    for name, value in source.items():
        if name not in options:
            wrong.append(f"{name} is {value!r} in the source, the task has no such option")
        elif not _same(options[name], value):
            wrong.append(f"{name} is {options[name]!r}, the source says {value!r}")
    if wrong:
        return failed("constants", compared, "; ".join(wrong), **figures)
    return StageRow("constants", "passed", compared, figures=figures, samples=len(source))


def expected_score_row(
    task: Task,
    spec: ModelSpec,
    expect: ExpectSpec | None,
    labels: Sequence[str] | None,
    checkpoint: Sequence[TaskResult],
    served: Sequence[TaskResult],
) -> StageRow:
    """The spec's metric on labelled samples, for the checkpoint and for the served model; both must reach it."""
    compared = "checkpoint and served model against the samples' labels"
    if labels is None:
        return not_run("expected_score", compared, NO_LABELS)
    if expect is None:
        return not_run("expected_score", compared, "no expected score in the spec (expect)")
    figures = {
        "checkpoint": round(task.score(expect.metric, checkpoint, labels, spec), 6),
        "served": round(task.score(expect.metric, served, labels, spec), 6),
    }
    short = [f"{side} {value:.4f}" for side, value in figures.items() if not value >= expect.at_least]
    reason = f"{expect.metric}: expected at least {expect.at_least:g}, got {', '.join(short)}" if short else ""
    gate = {expect.metric: expect.at_least}
    status: Status = "failed" if short else "passed"
    return StageRow("expected_score", status, compared, reason, gate, figures=figures, samples=len(labels))


def check_expected(task: Task, spec: ModelSpec, labels: Mapping[str, str | None], names: Sequence[str]) -> None:
    """Raise SpecInvalid where `expect` names no metric of the task, or a label is none that it can score.

    labels: by sample, with class ids for the names of classes; names: of the classes. Called before anything is
    converted: a wrong word in a CSV is not worth an hour.
    """
    if spec.expect is None:
        return
    # The mean of no result is no number: only the metric's name is asked about.
    with warnings.catch_warnings(), contextlib.suppress(ValueError, LookupError, ArithmeticError):
        warnings.simplefilter("ignore")
        task.score(spec.expect.metric, [], [], spec)
    for sample, label in labels.items():
        if label is not None and isinstance(task, ReadsLabels):
            try:
                task.check_label(spec.expect.metric, label, names)
            except SpecInvalid as error:
                where = f"{spec.name}: parity.labels: {spec.parity.labels}: {sample}"
                raise SpecInvalid(f"{where}: {error.message}", hint=error.hint) from error


def memory_row(peak_rss_bytes: int | None) -> StageRow:
    """Peak RSS of one instance, measured on the staging server."""
    compared = "peak resident memory of one served instance"
    if peak_rss_bytes is None:
        return not_run("memory", compared, "no staging server ran")
    if peak_rss_bytes <= 0:
        return failed("memory", compared, "the instance's process was not found")
    return StageRow("memory", "passed", compared, figures={"peak_rss_bytes": peak_rss_bytes})


def digest(value: Any) -> str:
    """SHA-256 of a JSON value in its canonical form (sorted keys, no spaces, UTF-8)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _same(ours: Any, source: Any) -> bool:
    if isinstance(ours, int | float) and isinstance(source, int | float) and not isinstance(ours, bool):
        return float(ours) == float(source)
    return bool(ours == source)
