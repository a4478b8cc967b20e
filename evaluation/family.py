"""What scoring needs of a task: how its truth is written, how its models are asked, and its metrics.

One file a family, `evaluation/metrics/<task>.py`, with a module value `FAMILY`; nothing else has to know the task.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from serving.errors import SpecInvalid
from serving.types import TaskResult

Parameters = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Item:
    """One labelled sample: its file, and its truth as the family reads it."""

    name: str
    path: Path
    truth: Any


# Any runtime is scored through this one door: items in order, and the parameter sets that each is asked with ->
# for each item its results, one a parameter set.
Ask = Callable[[Sequence[Item], Sequence[Parameters]], Iterator[tuple[TaskResult, ...]]]


# Results by entry of `asks`, in the order of the items.
Answers = Mapping[str, Sequence[TaskResult]]


class Family(Protocol):
    """The metrics of one task."""

    asks: Mapping[str, Parameters]

    def read(self, folder: Path, labels: Sequence[str]) -> list[Item]:
        """The labelled samples of a folder. Raises SpecInvalid naming what does not fit."""
        ...

    def score(
        self, answers: Mapping[str, Sequence[TaskResult]], items: Sequence[Item], labels: Sequence[str]
    ) -> dict[str, Any]:
        """Metrics by name. answers: for each entry of `asks`, the results in the order of the items."""
        ...


def family_named(task: str) -> Family:
    """The metrics of a task; SpecInvalid where it has none."""
    name = f"evaluation.metrics.{task}"
    module = importlib.import_module(name) if importlib.util.find_spec(name) else None
    family: Family | None = getattr(module, "FAMILY", None)
    if family is None:
        raise SpecInvalid(f"task {task}: has no metrics on labelled pictures (evaluation/metrics/{task}.py)")
    return family


def evaluate(
    family: Family,
    items: Sequence[Item],
    labels: Sequence[str],
    ask: Ask,
    scenario: str = "",
    over: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> dict[str, Any]:
    """Ask for every item, then score. over: wraps the answers to show progress."""
    answers = asked(family, items, ask, scenario, over)
    return {"samples": len(items), **family.score(answers, items, labels)}


def asked(
    family: Family,
    items: Sequence[Item],
    ask: Ask,
    scenario: str = "",
    over: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Answers:
    """The answers that a family wants to see."""
    asks = {name: {**given, **({"scenario": scenario} if scenario else {})} for name, given in family.asks.items()}
    rows = list(over(ask(items, tuple(asks.values()))))
    return {name: [row[place] for row in rows] for place, name in enumerate(asks)}
