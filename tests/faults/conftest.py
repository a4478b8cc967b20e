"""One rig and one table for all rows of a session."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_rig import Load, Rig
from fault_table import Table, write

_TABLE: pytest.StashKey[Table] = pytest.StashKey()


def _is_quick(config: pytest.Config) -> bool:
    """The long rows are left out, so the machine has other things to do."""
    return "not faults" in config.option.markexpr


@pytest.fixture(scope="session")
def table(request: pytest.FixtureRequest) -> Table:
    """The rows of this run."""
    made = request.config.stash.setdefault(_TABLE, Table())
    made.strict = not _is_quick(request.config)
    return made


@pytest.fixture(scope="session")
def load(request: pytest.FixtureRequest) -> Load:
    """The standard load, or a small one where the long rows are left out."""
    return Load.asked(quick=_is_quick(request.config))


@pytest.fixture(scope="session")
def rig(table: Table, load: Load) -> Iterator[Rig]:
    """The shared rig: started once."""
    folder = Path(tempfile.mkdtemp(prefix="lockstep-faults-"))
    table.load = load.text()
    try:
        with Rig(folder, load) as made:
            yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """These come last: the rig stays until the session ends, and takes of the cores of what would follow."""
    items.sort(key=lambda item: Path(__file__).parent in item.path.parents)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table; under FAULT_REPORT=FOLDER write it there too."""
    table = terminalreporter.config.stash.get(_TABLE, None)
    if table is None or not table.rows:
        return
    terminalreporter.section("faults")
    folder = os.environ.get("FAULT_REPORT")
    terminalreporter.write_line(table.text(whole=bool(folder)))
    if folder:
        terminalreporter.write_line(f"written: {write(table, Path(folder))}")
        terminalreporter.write_line(f"missed or missing: {', '.join(table.missed) or 'none'}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A run that shall have every row fails where one is missing."""
    table = session.config.stash.get(_TABLE, None)
    if os.environ.get("FAULT_REPORT") and (table is None or table.missed) and session.exitstatus == 0:
        session.exitstatus = 1
