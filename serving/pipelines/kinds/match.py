"""match: which subject of a gallery an embedding is nearest to, or `unknown`, with the reason.

options: `threshold` (cosine from which a subject is known) and `margin` (least lead over the next subject), where the
gallery has none of its own; `top`: how many candidates are told. A gallery that is not there yet is an empty one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from serving.errors import NotFound, ServingError
from serving.errors_gallery import GalleryMismatch
from serving.gallery import Decision, GalleryReader, Match, Rule, View, decide
from serving.gallery.writer import check_chain
from serving.pipelines.items import Failed, Item, Tools
from serving.pipelines.plan import Plan, options_of
from serving.spec_steps import StepSpec
from serving.types import Embedding

LOW_QUALITY = "low_quality"


class MatchOptions(BaseModel):
    """See the module."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    threshold: float = Field(ge=-1, le=1)
    margin: float = Field(0.0, ge=0, le=2)
    top: int = Field(1, ge=1, le=50)


@dataclass(frozen=True, slots=True)
class Identity:
    """A decision, the subject's label and the nearest subjects."""

    decision: Decision
    label: str
    nearest: tuple[Match, ...] = ()


class MatchKind:
    """See the module."""

    def check(self, step: StepSpec, plan: Plan) -> None:
        """An embedding, and a gallery."""
        options_of(MatchOptions, plan.name, step)
        source = plan.source(step)
        if source is None or source.do != "infer" or plan.parts[source.name].spec.task != "embedding":
            raise plan.wrong(step, f"of: {step.of} gives no embedding", hint="name an `infer` step with an embedder")
        if step.gallery is None:
            raise plan.wrong(step, "match needs `gallery`")

    def run(self, step: StepSpec, items: Sequence[Item], tools: Tools) -> list[Item | Failed]:
        """A decision for each embedding, all of them against the same view of the gallery."""
        options = options_of(MatchOptions, "", step)
        assert step.gallery is not None
        try:
            view, rule = opened(tools, step.gallery, options, tools.chain[step.of])
        except ServingError as error:
            return [Failed(item.request, item.path, error) for item in items]
        return [_decided(item, view, rule, options.top) for item in items]

    def tell(self, step: StepSpec, item: Item, tools: Tools) -> dict[str, Any] | None:
        """`{status, subject?, label, score, margin, reason?, nearest?}`."""
        identity: Identity = item.value
        decision = identity.decision
        told: dict[str, Any] = {"status": decision.status, "label": identity.label, "gallery": step.gallery}
        told |= {"subject": decision.subject} if decision.subject else {"reason": decision.reason}
        told |= {"score": round(decision.score, 4), "margin": round(decision.margin, 4)}
        if len(identity.nearest) > 1:
            told["nearest"] = [{"subject": m.subject, "score": round(m.score, 4)} for m in identity.nearest]
        return told


def opened(tools: Tools, name: str, options: MatchOptions, chain: str) -> tuple[View, Rule]:
    """The gallery as it stands now, and its rule. GalleryMismatch where another chain made it, GalleryDamaged."""
    default = Rule(options.threshold, options.margin)
    try:
        reader: GalleryReader = tools.galleries.get(name)
        view, facts = reader.view(), reader.facts
    except NotFound:
        return View.empty(), default
    if len(view):
        check_chain(facts, chain)
    threshold = default.threshold if facts.threshold is None else facts.threshold
    return view, Rule(threshold, default.margin if facts.margin is None else facts.margin)


def _decided(item: Item, view: View, rule: Rule, top: int) -> Item | Failed:
    assert isinstance(item.value, Embedding)
    if item.quality is not None and item.quality.problems:
        reason = f"{LOW_QUALITY}: {', '.join(item.quality.problems)}"
        return replace(item, value=Identity(Decision("unknown", reason, "", 0.0, 0.0), "unknown"))
    try:
        matches = view.search(item.value.vector, max(2, top))
    except ValueError as error:
        return Failed(item.request, item.path, GalleryMismatch(f"gallery: {error}"))
    decision = decide(matches, rule)
    label = view.labels.get(decision.subject, decision.subject) or "unknown"
    return replace(item, value=Identity(decision, label, tuple(matches[:top])))


KIND = MatchKind()
