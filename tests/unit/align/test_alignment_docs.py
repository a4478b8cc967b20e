"""The pages a user relies on say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from serving.align.tracks import TrackRules
from serving.frames import DeadReason, DropReason
from serving.testing.simulator import FAULTS

DOCS = Path(__file__).resolve().parents[3] / "docs"


def rows(page: str, heading: str) -> list[str]:
    """First cells of the table under a header row that begins with `heading`."""
    lines = (DOCS / page).read_text("utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    found = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        found.append(line.split("|")[1].strip())
    return found


def test_the_closed_list_of_reasons_is_that_of_the_enums_in_their_order() -> None:
    assert rows("guarantees.md", "dropped") == [reason.value for reason in DropReason]
    assert rows("guarantees.md", "dead_letter") == [reason.value for reason in DeadReason]


def test_the_fault_table_is_that_of_the_simulator() -> None:
    assert rows("guarantees.md", "fault") == list(FAULTS)


def test_every_guarantee_and_invariant_is_there() -> None:
    assert [row.split()[0] for row in rows("guarantees.md", "#")] == [f"G{n}" for n in range(1, 15)]
    assert rows("alignment.md", "#") == [f"I{n}" for n in range(1, 19)]


def test_files_that_the_pages_name_exist() -> None:
    root = DOCS.parent
    for page in ("alignment.md", "guarantees.md"):
        text = (DOCS / page).read_text("utf-8")
        for name in re.findall(r"`((?:serving|tests)/[\w/.]+)`", text):
            assert (root / name).exists(), f"{page} names {name}"
        for link in re.findall(r"\]\(([\w/.-]+\.md)\)", text):
            assert (DOCS / link).exists(), f"{page} links {link}"


def test_defaults_are_those_of_the_page() -> None:
    text = (DOCS / "alignment.md").read_text("utf-8")
    assert "250 ms by default" in text and "10 s by default" in text and "2 s by default" in text
    from serving.align import CloseRule, MixerSettings, TimelineSettings

    assert (MixerSettings().delay_ns, MixerSettings().lateness_ns) == (250_000_000, 2_000_000_000)
    assert TimelineSettings().gap_max_ns == 10_000_000_000 and TimelineSettings().max_fps == 60
    assert CloseRule().timeout_ns == 60_000_000_000 and TrackRules().fill
