"""publish_state: checked, and silent where there is no index or none that answers."""

from __future__ import annotations

import pytest

from serving.roles.state import publish_state
from serving.testing.memory_index import MemoryIndex


def test_a_state_is_read_back_and_overtaken() -> None:
    index = MemoryIndex()
    publish_state(index, "ingest", "gate", {"epoch": 1})
    publish_state(index, "ingest", "gate", {"epoch": 2})
    assert index.states(["gate"]) == {"gate": {"ingest": {"epoch": 2}}}


def test_without_an_index_or_with_one_that_is_away_nothing_happens() -> None:
    publish_state(None, "ingest", "gate", {"epoch": 1})
    index = MemoryIndex()
    index.set_down(True)
    publish_state(index, "ingest", "gate", {"epoch": 1})
    index.set_down(False)
    assert index.states(["gate"]) == {"gate": {}}


@pytest.mark.parametrize(
    ("role", "fields", "what"),
    [
        ("cook", {"epoch": 1}, "expected one of"),
        ("ingest", {"epoch": float("nan")}, "plain JSON"),
        ("ingest", {"epoch": object()}, "plain JSON"),
        ("ingest", {"text": "x" * 20_000}, "bytes"),
    ],
)
def test_what_is_no_state_is_refused(role: str, fields: dict[str, object], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        publish_state(MemoryIndex(), role, "gate", fields)
