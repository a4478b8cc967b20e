"""publish_state: checked, and silent where there is no index or none that answers."""

from __future__ import annotations

import subprocess
import sys

import pytest

from serving.config import ConfigInvalid, Settings
from serving.roles.index_open import open_index, open_states
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


def test_a_worker_starts_without_the_clients_that_it_needs_later_or_never() -> None:
    """On a slow machine they are half of the time until a killed worker answers again."""
    line = "import sys, serving.roles.main_worker; print(sorted({'redis', 'tritonclient', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("address", ["127.0.0.1:6379", "http://127.0.0.1", "redis://127.0.0.1:port/0"])
def test_an_address_that_is_none_is_refused_before_anything_is_said(address: str) -> None:
    for opened in (open_states, open_index):
        with pytest.raises(ConfigInvalid, match="expected redis://"):
            opened(Settings(redis=address))
    assert open_states(Settings(redis="")) is None
