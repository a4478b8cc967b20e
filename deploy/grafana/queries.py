"""Every query that an operator looks at, each by a name: of panels, of their variables, of rules and of alerts.

An alert's expression compares, and a comparison that does not hold gives no series, which is what a healthy system
should give. So an alert is taken apart into its operands: what stands between `and`, `or` and `unless`, without the
comparison. When each of these gives a series, the alert has something to judge.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from deploy.grafana.panels import BOARDS, Board

RULES = Path(__file__).resolve().parents[1] / "prometheus" / "rules"
ANY = ".*"  # what a dashboard's variable stands for when nothing was chosen: every value, and none
_SET_OPERATOR = re.compile(r"\b(?:and|or|unless)\b(?:\s+(?:on|ignoring)\s*\x00+)?")
_COMPARISON = re.compile(r"\s*(?:==|!=|<=|>=|<|>)")


@dataclass(frozen=True, slots=True)
class Query:
    """name: `overview/Errors`, `streams $source`, `LockstepLag` or a recorded name. text: PromQL without variables."""

    name: str
    text: str


def panel_queries(boards: Sequence[Board] = BOARDS, value: str = ANY) -> Iterator[Query]:
    """Every query of every panel, and what fills each variable. value: of all variables."""
    for board in boards:
        for panel in board.panels:
            for _, text in panel.queries:
                yield Query(f"{board.uid}/{panel.title}", re.sub(r"\$\w+", value, text))
        for name, asked in board.variables:
            match = re.fullmatch(r"label_values\((.+), (\w+)\)", asked)
            assert match is not None, f"{board.uid} ${name}: expected label_values(series, label), got {asked}"
            yield Query(f"{board.uid} ${name}", f"group by ({match[2]}) ({match[1]})")


def rules(folder: Path = RULES) -> list[dict[str, Any]]:
    """All rules, as they stand in the files."""
    groups = [group for path in sorted(folder.glob("*.yml")) for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"]]


def rule_queries(folder: Path = RULES) -> Iterator[Query]:
    """What each recording rule records, and the operands of each alert."""
    for rule in rules(folder):
        if "record" in rule:
            yield Query(rule["record"], rule["expr"])
        else:
            for text in operands(rule["expr"]):
                yield Query(rule["alert"], text)


def operands(expression: str) -> list[str]:
    """The vectors that an alert's expression is made of: `a > 5 unless on (x) b > 5` gives a and b."""
    outline = _outline(expression)
    found, start = list[str](), 0
    for begin, end in [*(match.span() for match in _SET_OPERATOR.finditer(outline)), (len(outline), len(outline))]:
        compared = _COMPARISON.search(outline, start, begin)
        found.append(" ".join(expression[start : compared.start() if compared else begin].split()))
        start = end
    return found


def _outline(expression: str) -> str:
    """The expression with all that stands in brackets or quotes blotted out, as long as before."""
    depth, quoted, kept = 0, "", list[str]()
    for letter in expression:
        depth -= not quoted and letter in ")}]"
        kept.append("\0" if depth or quoted or letter in "(){}[]'\"" else letter)
        depth += not quoted and letter in "({["
        if letter in "'\"":
            quoted = "" if quoted == letter else quoted or letter
    return "".join(kept)
