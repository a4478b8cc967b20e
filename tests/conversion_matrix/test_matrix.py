"""docs/conversion-matrix.md is the expectation: every row is converted, and a verdict other than the table's fails."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="skipped: torch: make setup")

import architectures
from verdicts import TARGETS, verdicts

TABLE = Path(__file__).resolve().parents[2] / "docs" / "conversion-matrix.md"
# A recurrent network, a depthwise one and the common one run every time; all others in make test-long.
DEFAULT = ("ResNet-18", "MobileNetV3-small", "LSTM", "Determinant", "Bessel function")


def _table() -> dict[str, dict[str, str]]:
    """Row -> target -> expected verdict, from the page's one table."""
    lines = [line for line in TABLE.read_text("utf-8").splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert tuple(cells[0][1:5]) == TARGETS
    return {row[0]: dict(zip(TARGETS, row[1:5], strict=True)) for row in cells[2:]}


def test_the_table_and_the_networks_are_the_same_rows() -> None:
    assert sorted(_table()) == sorted(architectures.ROWS)


def test_refusals_are_for_operators_only() -> None:
    for row, expected in _table().items():
        for target, verdict in expected.items():
            words = verdict.split(": ")
            known = words[0] in ("certified", "-") or (words[0] in ("refused", "left out") and len(words) == 2)
            assert known, f"{row}: {target}: {verdict!r}"


@pytest.mark.needs("tensorrt_rtx")
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    "row", [pytest.param(row, marks=() if row in DEFAULT else pytest.mark.long) for row in architectures.ROWS]
)
def test_every_row_has_the_verdicts_of_the_table(row: str, tmp_path: Path) -> None:
    found = verdicts(row, tmp_path)
    for target, expected in _table()[row].items():
        word, _, operator = expected.partition(": ")
        assert found[target].startswith(word), f"{row}: {target}: expected {expected}, got {found[target]}"
        assert operator.strip("`") in found[target]
