"""What flows between steps: items, each with its way back to the box and the picture it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from serving.bundle import ModelBundle
from serving.errors import ServingError
from serving.gallery import Galleries
from serving.spec_steps import StepSpec
from serving.stage_costs import StageCosts
from serving.types import FloatArray, InferRequest, InferResponse, PixelArray


class Model(Protocol):
    """A model of this process, as steps ask it."""

    @property
    def bundle(self) -> ModelBundle: ...

    @property
    def costs(self) -> StageCosts: ...

    def infer(self, requests: Sequence[InferRequest]) -> Sequence[InferResponse | ServingError]: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Quality:
    """What a crop looks like. problems: why it is not good enough, of a closed list: small, blurred, turned."""

    side: float
    sharpness: float
    turn: float | None
    problems: tuple[str, ...] = ()

    def to_document(self) -> dict[str, Any]:
        """As it is told in a box's row."""
        told: dict[str, Any] = {"side": round(self.side, 1), "sharpness": round(self.sharpness, 2)}
        told |= {"turn": round(self.turn, 3)} if self.turn is not None else {}
        return {**told, "good": not self.problems, "problems": list(self.problems)}


@dataclass(frozen=True, slots=True)
class Item:
    """One value on its way.

    request: place in the batch. path: number of the box at each crop on the way, () for the whole picture. value:
    pixels (RGB uint8 [h, w, 3]) or what a step found. offset: the place of the pixels' corner in the source picture,
    None where they were moved otherwise. xyxy, landmarks: of the nearest box, source pixels. quality: of the nearest
    crop that measured it.
    """

    request: int
    value: Any
    path: tuple[int, ...] = ()
    offset: tuple[float, float] | None = (0.0, 0.0)
    xyxy: FloatArray | None = None
    landmarks: FloatArray | None = None
    quality: Quality | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """An item that a step could not work on."""

    request: int
    path: tuple[int, ...]
    error: ServingError


@dataclass(frozen=True, slots=True)
class Tools:
    """What kinds may use. pictures: the source picture of each request. parts: the pixels of its roi (of all of it
    where it has none), and their corner in it. models: by step. parameters: of each request. chain: by step, the
    fingerprint of everything that a vector of it depends on. answer: the step that gives the rows.
    """

    pictures: Sequence[PixelArray]
    parts: Sequence[tuple[PixelArray, tuple[float, float]]]
    models: Mapping[str, Model]
    galleries: Galleries
    parameters: Sequence[Mapping[str, Any]]
    chain: Mapping[str, str]
    answer: str | None = None
    again: dict[str, Any] = field(default_factory=dict)


class Kind(Protocol):
    """What a step does; one file under serving/pipelines/kinds, found by its name."""

    def check(self, step: StepSpec, plan: Any) -> None:
        """Raise SpecInvalid where the step does not suit the one it works on. plan: serving.pipelines.plan.Plan."""
        ...

    def run(self, step: StepSpec, items: Sequence[Item], tools: Tools) -> list[Item | Failed]:
        """Work on all items of all requests of the batch at once. A ServingError of one item is its own."""
        ...

    def tell(self, step: StepSpec, item: Item, tools: Tools) -> dict[str, Any] | None:
        """An item's finding as it stands in the answer; None: nothing to tell."""
        ...
