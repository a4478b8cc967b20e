"""What two systems on one machine must not share: the folder of data, and that of mixed video."""

from __future__ import annotations

from pathlib import Path

import pytest

import deploy.embedded.up as module
import serving.cli.commands_up as command
from deploy.embedded.up import only_one
from serving.errors import StartFailed


class Started(Exception):
    """As far as these tests go."""


@pytest.mark.parametrize(
    ("taken", "hint"), [("data/up.lock", "--data FOLDER"), ("mixed/.up.lock", "LOCKSTEP_MIXED_DIR=FOLDER"), ("", "")]
)
def test_a_second_system_in_a_folder_of_another_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: str, hint: str
) -> None:
    def started(*arguments: object) -> None:
        raise Started

    monkeypatch.setattr(command, "check_programs", lambda: None)
    monkeypatch.setattr(module, "System", started)
    monkeypatch.setenv("LOCKSTEP_MIXED_DIR", str(tmp_path / "mixed"))
    first = only_one(tmp_path / taken if taken else tmp_path / "elsewhere" / "up.lock", "")
    with first, pytest.raises(StartFailed if hint else Started) as refused:
        command.up(data=tmp_path / "data", port=0)
    if isinstance(refused.value, StartFailed):
        assert "another `lockstep up` uses this folder" in str(refused.value) and refused.value.hint == hint
