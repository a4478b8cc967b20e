"""`make setup`: its table names what a bare machine lacks, and a try that failed does not spoil the next one."""

from __future__ import annotations

import ctypes.util
import importlib.util
import sysconfig
from pathlib import Path

import pytest

from tools import setup


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where `.venv` and `.tools` are to be."""
    monkeypatch.setattr(setup, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(setup, "TOOLS", tmp_path / ".tools")
    return tmp_path


def _file(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def _ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    ran: list[tuple[str, ...]] = []
    monkeypatch.setattr(setup, "run", lambda *command: ran.append(command))
    setup.install("full")
    return ran


def test_an_environment_without_pip_is_made_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `python -m venv` leaves behind where it fails at ensurepip."""
    _file(folder / ".venv/bin/python")
    first = _ran(monkeypatch)[0]
    assert first[1:] == ("-m", "venv", "--clear", str(folder / ".venv"))


@pytest.mark.parametrize("installer", [".venv/bin/pip", ".tools/bin/uv"])
def test_an_environment_that_can_be_installed_into_stays(
    folder: Path, monkeypatch: pytest.MonkeyPatch, installer: str
) -> None:
    _file(folder / ".venv/bin/python")
    _file(folder / installer)
    assert not [command for command in _ran(monkeypatch) if "venv" in command]


def test_a_python_without_ensurepip_is_told_with_its_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _row("venv")[3], "this Python has it"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    _, expected, found, good = _row("venv")
    assert not good and found == "no ensurepip" and "apt-get install python3." in expected and "-venv" in expected
    for name in (".venv/bin/python", ".venv/bin/pip"):
        _file(folder / name)
    assert _row("venv")[3], "nothing has to be made"


def test_a_libpython_that_is_not_there_is_told_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"Py_ENABLE_SHARED": 1, "INSTSONAME": "libpython3.so.1.0", "LIBDIR": str(tmp_path)}
    monkeypatch.setattr(sysconfig, "get_config_var", said.get)
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    _, expected, found, good = _row("libpython")
    assert not good and found == "no file of it" and "apt-get install libpython3." in expected
    (tmp_path / "libpython3.so.1.0").touch()
    assert _row("libpython")[3]
    monkeypatch.setitem(said, "Py_ENABLE_SHARED", 0)
    assert _row("libpython")[2:] == ("static", False)


def _row(name: str) -> tuple[str, str, str, bool]:
    return next(row for row in setup.checks("full") if row[0] == name)
