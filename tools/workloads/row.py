"""What a workload says of itself, and what it shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from serving.types import PixelArray
from tools.workloads.bench import Bench


@dataclass(frozen=True, slots=True)
class Shown:
    """A workload's part of the page.

    pictures: (caption, RGB uint8 [h, w, 3]): the input with its answer drawn in. figures: what was measured, with its
    unit in the value. answer: rows of equal keys, as they came. files: what was written besides.
    """

    pictures: Sequence[tuple[str, PixelArray]] = ()
    figures: Mapping[str, str] = field(default_factory=dict)
    answer: Sequence[Mapping[str, Any]] = ()
    files: Sequence[Any] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """place: order on the page. models: YAMLs of models/ that it needs, each after those it is made of.

    show: asks the running server, or runs a clip; anything it raises is told on the page, and the other rows go on.
    """

    place: int
    title: str
    about: str
    models: Sequence[str]
    show: Callable[[Bench], Shown]
