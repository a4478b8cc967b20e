"""Bad cases: the samples that a model got most wrong, each with its reason and picture, as JSON and as one page.

A family says how bad each answer is (`judge`): 0 right, more is worse; ties keep the order of the samples. The page
holds its pictures itself (JPEG in the HTML), so that it can be sent as one file; names and labels are escaped.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np

from evaluation.family import Answers, Ask, Family, Item, asked
from serving.errors import SpecInvalid
from serving.types import Detections, PixelArray

SIDE = 320
TRUTH, FOUND = (40, 200, 40), (230, 60, 40)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How bad an answer is (0: right) and why, in words. boxes: true ones, xyxy in pixels, to be drawn."""

    badness: float
    reason: str = ""
    boxes: Sequence[Sequence[float]] = ()


@runtime_checkable
class Judges(Protocol):
    """A family that can say of each sample how wrong its answer is."""

    def judge(self, answers: Answers, items: Sequence[Item], labels: Sequence[str]) -> list[Verdict]:
        """One verdict an item."""
        ...


@dataclass(frozen=True, slots=True)
class BadCase:
    """A sample that went wrong. found: the boxes of the answer, where it has boxes."""

    item: Item
    verdict: Verdict
    found: Detections | None

    def to_document(self) -> dict[str, Any]:
        """As it is told in bad_cases.json."""
        return {"file": str(self.item.path), "badness": round(self.verdict.badness, 4), "reason": self.verdict.reason}


def bad_cases(
    family: Family,
    items: Sequence[Item],
    labels: Sequence[str],
    ask: Ask,
    top: int,
    scenario: str = "",
    over: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> tuple[list[BadCase], int]:
    """The worst `top` samples, worst first, and how many are bad in all. SpecInvalid where the task has no judge."""
    if not isinstance(family, Judges):
        raise SpecInvalid("this task has no bad cases: its family in evaluation/metrics has no `judge`")
    answers = asked(family, items, ask, scenario, over)
    verdicts = family.judge(answers, items, labels)
    bad = [place for place, verdict in enumerate(verdicts) if verdict.badness > 0]
    bad.sort(key=lambda place: -verdicts[place].badness)
    served = answers["served"]
    boxes = [answer if isinstance(answer, Detections) else None for answer in served]
    return [BadCase(items[place], verdicts[place], boxes[place]) for place in bad[:top]], len(bad)


def page(title: str, about: str, cases: Sequence[BadCase], picture: Callable[[BadCase], PixelArray]) -> str:
    """One HTML file. picture: RGB uint8 of a case's sample."""
    cells = "\n".join(_cell(number, case, picture(case)) for number, case in enumerate(cases, 1))
    nothing = "" if cases else "<p>No sample went wrong.</p>"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title><style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 24px; background: #fafafa; color: #222 }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(240px, 1fr)); gap: 16px }}
figure {{ margin: 0; padding: 8px; background: #fff; border: 1px solid #ddd; border-radius: 6px }}
img {{ width: 100%; display: block; image-rendering: pixelated }}
figcaption {{ overflow-wrap: anywhere; margin-top: 6px }}
b {{ color: #b3261e }} small {{ color: #666 }}
</style></head><body><h1>{html.escape(title)}</h1><p>{html.escape(about)}</p>{nothing}<main>
{cells}
</main></body></html>
"""


def _cell(number: int, case: BadCase, rgb: PixelArray) -> str:
    encoded = cv2.imencode(".jpg", cv2.cvtColor(_drawn(case, rgb), cv2.COLOR_RGB2BGR))[1].tobytes()
    source = "data:image/jpeg;base64," + base64.b64encode(encoded).decode()
    name, reason = html.escape(case.item.name), html.escape(case.verdict.reason)
    told = f"<b>{number}. {reason}</b><br><small>{name}, badness {case.verdict.badness:.3f}</small>"
    return f'<figure><img src="{source}" alt="{name}"><figcaption>{told}</figcaption></figure>'


def _drawn(case: BadCase, rgb: PixelArray) -> PixelArray:
    """At most SIDE pixels (small pictures are enlarged), true boxes green, found ones red."""
    scale = SIDE / max(rgb.shape[:2])
    kernel = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    small = cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=kernel)
    found = case.found.xyxy.tolist() if case.found is not None else []
    for boxes, colour, width in ((case.verdict.boxes, TRUTH, 3), (found, FOUND, 1)):
        for box in boxes:
            x1, y1, x2, y2 = (round(float(v) * scale) for v in box)
            cv2.rectangle(small, (x1, y1), (x2, y2), colour, width)
    return np.asarray(small, np.uint8)
