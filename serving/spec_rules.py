"""Rules for boxes as a model's YAML says them: which boxes of which classes are told, by scenario.

What they do is in serving/tasks/rules.py; docs/model-yaml.md is the user's page.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Point = tuple[Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=0, le=1)]]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class VoteSpec(_Strict):
    """A box stays where boxes like it (same class, IoU) were found in `at_least` of the last `of` analysed frames."""

    of: int = Field(ge=2, le=64, description="analysed frames, this one among them")
    at_least: int = Field(ge=2, le=64)
    iou: float = Field(0.3, gt=0, le=1)

    @model_validator(mode="after")
    def _possible(self) -> VoteSpec:
        if self.at_least > self.of:
            raise ValueError(f"at_least: expected at most of ({self.of}), got {self.at_least}")
        return self


class RuleSpec(_Strict):
    """One rule. A box of `labels` (none: any class) that breaks a bound goes; `merge_into` and `vote` stand alone."""

    name: Name
    labels: tuple[str, ...] = Field((), description="classes that it is for; none: all")
    min_area: float = Field(0.0, ge=0, description="source pixels")
    max_area: float | None = Field(None, gt=0, description="source pixels")
    min_aspect: float = Field(0.0, ge=0, description="width / height")
    max_aspect: float | None = Field(None, gt=0)
    zone: tuple[Point, ...] = Field((), description="polygon, parts of the picture (0..1)")
    keep: Literal["inside", "outside"] = "inside"
    point: Literal["center", "bottom"] = Field("center", description="the point of a box that is in the zone or not")
    merge_into: str | None = Field(None, description="the class that boxes of `labels` get")
    vote: VoteSpec | None = None

    @model_validator(mode="after")
    def _does_something(self) -> RuleSpec:
        bounds = bool(self.min_area or self.max_area or self.min_aspect or self.max_aspect or self.zone)
        if bounds + (self.merge_into is not None) + (self.vote is not None) != 1:
            raise ValueError(f"rule {self.name}: expected one of: bounds (area, aspect, zone), merge_into, vote")
        if self.zone and len(self.zone) < 3:
            raise ValueError(f"rule {self.name}: zone: expected at least 3 points, got {len(self.zone)}")
        for low, high, what in ((self.min_area, self.max_area, "area"), (self.min_aspect, self.max_aspect, "aspect")):
            if high is not None and low > high:
                raise ValueError(f"rule {self.name}: min_{what} {low:g} is over max_{what} {high:g}")
        if self.merge_into is not None and not self.labels:
            raise ValueError(f"rule {self.name}: merge_into needs `labels`: the classes that become {self.merge_into}")
        return self
