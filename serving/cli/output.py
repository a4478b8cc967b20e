"""What commands print: JSON on request, else a table; always on stdout."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from serving.config import Settings, forget_foreign_metrics, load_settings

WHOLE = 18  # a name or a hash up to this length is never broken
PIPED_WIDTH = 120  # columns where nobody says how wide the terminal is


def print_json(value: Any) -> None:
    """One JSON document, indented, with a newline."""
    sys.stdout.buffer.write(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE, default=str))
    sys.stdout.flush()


def print_table(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows of equal keys as a table; an empty list says so."""
    console = plain_console(None if sys.stdout.isatty() else PIPED_WIDTH)
    if not rows:
        console.print(f"{title}: none")
        return
    table = Table(title=title, title_justify="left")
    for name in rows[0]:
        table.add_column(name, overflow="fold", min_width=min(WHOLE, max(len(str(row[name])) for row in rows)))
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    console.print(table)


def plain_console(width: int | None = None) -> Console:
    """Writes values as they are: `[...]` and `:word:` in an address or a name are no markup of ours."""
    return Console(width=width, markup=False, emoji=False)


def settings_from(config: Path | None, **overrides: Any) -> Settings:
    """Settings of this call: file, environment, then what the command line gave. Metrics are this process's alone."""
    forget_foreign_metrics()
    return load_settings(config, **overrides).settings


def say(text: str) -> None:
    """One line of progress on stderr."""
    print(text, file=sys.stderr, flush=True)
