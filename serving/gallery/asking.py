"""From a pipeline's answer to a gallery: what can be enrolled, and who everybody in the picture is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from serving.errors import EngineFailed, ParameterInvalid
from serving.errors_gallery import NothingToEnrol, QualityTooLow, SeveralToEnrol
from serving.gallery.decide import Rule, decide
from serving.gallery.duplicates import Group
from serving.gallery.facts import Facts
from serving.gallery.view import View
from serving.gallery.writer import NewSample, check_chain
from serving.spec import ModelSpec
from serving.types import FloatArray


@dataclass(frozen=True, slots=True)
class Found:
    """One embedding in a pipeline's answer. row: the box it belongs to, without the numbers; {} for a whole picture."""

    vector: FloatArray
    fingerprint: str
    row: Mapping[str, Any] = field(default_factory=dict)

    @property
    def problems(self) -> list[str]:
        """What its crop's quality lacks."""
        told = [value for value in self.row.values() if isinstance(value, Mapping) and "problems" in value]
        return [problem for value in told for problem in value["problems"]]


def found_in(document: Mapping[str, Any]) -> list[Found]:
    """Embeddings of a pipeline's document (asked with `embeddings`), in the order of the boxes.

    Raises EngineFailed where a step that should have given one failed."""
    rows = [_found(row) for row in document.get("detections", ())]
    found = [one for one in rows if one is not None]
    whole = _found(document.get("steps", {}))
    if not found and whole is not None:
        return [Found(whole.vector, whole.fingerprint)]
    if not found and rows and document.get("failures"):
        raise EngineFailed(f"step {document['failures'][0]['step']}: {document['failures'][0]['code']}")
    return found


def to_enrol(found: Sequence[Found]) -> Found:
    """The one. Raises NothingToEnrol, SeveralToEnrol, QualityTooLow."""
    if not found:
        raise NothingToEnrol("nothing was found in the picture that could be enrolled")
    if len(found) > 1:
        boxes = "; ".join(",".join(f"{v:.0f}" for v in one.row.get("xyxy", ())) for one in found[:6])
        raise SeveralToEnrol(f"expected one in the picture, found {len(found)}: {boxes}",
                             hint="name one by `roi=x1,y1,x2,y2`, or send a picture with one")  # fmt: skip
    if found[0].problems:
        raise QualityTooLow(f"{', '.join(found[0].problems)}: not good enough to be enrolled")
    return found[0]


def sample_of(one: Found, about: Mapping[str, Any]) -> NewSample:
    """What is written into the gallery."""
    return NewSample(one.vector, dict(about))


def rule_of(facts: Facts, spec: ModelSpec) -> Rule:
    """The gallery's own rule, else that of the pipeline's `match` step."""
    options = next((step.options for step in spec.steps if step.do == "match"), {})
    if facts.threshold is None and "threshold" not in options:
        raise ParameterInvalid(f"gallery {facts.name}: it has no threshold, nor has {spec.name}", hint="set one")
    threshold = facts.threshold if facts.threshold is not None else float(options["threshold"])
    return Rule(threshold, facts.margin if facts.margin is not None else float(options.get("margin", 0.0)))


def answers(view: View, facts: Facts, rule: Rule, found: Sequence[Found], top: int) -> list[dict[str, Any]]:
    """For each: its box and quality, `status`, `subject`, `label`, `score`, `margin`, `reason`, `nearest`.

    Raises GalleryMismatch where the gallery's vectors were made by another chain.
    """
    told = []
    for one in found:
        if len(view):
            check_chain(facts, one.fingerprint)
        try:
            matches = view.search(one.vector, max(2, top))
        except ValueError as error:
            raise ParameterInvalid(f"embedding: {error}") from error
        decision = decide(matches, rule)
        label = view.labels.get(decision.subject, decision.subject) or "unknown"
        row = {"status": decision.status, "label": label, "score": round(decision.score, 4),
               "margin": round(decision.margin, 4)}  # fmt: skip
        row |= {"subject": decision.subject} if decision.subject else {"reason": decision.reason}
        row["nearest"] = [
            {"subject": m.subject, "label": view.labels.get(m.subject, m.subject), "score": round(m.score, 4)}
            for m in matches[:top]
        ]
        told.append({**{k: one.row[k] for k in ("xyxy", "confidence") if k in one.row},
                     **({"problems": one.problems} if one.row else {}), **row})  # fmt: skip
    return told


def summary(facts: Facts, view: View) -> dict[str, Any]:
    """A gallery as it is listed."""
    counts = view.counts()
    return {
        "name": facts.name, "pipeline": facts.pipeline, "subjects": len(counts), "samples": sum(counts.values()),
        "dimension": facts.dimension, "fingerprint": facts.fingerprint, "threshold": facts.threshold,
        "margin": facts.margin, "far": facts.far, "search": "exact" if view.nearest is None else "graph",
    }  # fmt: skip


def subjects(view: View) -> list[dict[str, Any]]:
    """Its subjects, in the order of their enrolment."""
    return [{"subject": n, "label": view.labels.get(n, n), "samples": c} for n, c in view.counts().items()]


def duplicate_rows(view: View, groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Groups as they are told: `samples: [{subject, label, sample}]`, `best`, `least`."""
    return [
        {"samples": [{"subject": s, "label": view.labels.get(s, s), "sample": n} for s, n in group.members],
         "best": round(group.best, 4), "least": round(group.least, 4)} for group in groups
    ]  # fmt: skip


def _found(row: Mapping[str, Any]) -> Found | None:
    for value in row.values():
        if isinstance(value, Mapping) and "embedding" in value:
            rest = {k: v for k, v in row.items() if v is not value}
            return Found(np.array(value["embedding"], np.float32), str(value.get("fingerprint", "")), rest)
    return None
