"""One file a workload, each with a module value `ROW` (tools/workloads/row.py)."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence

from tools.workloads.row import Row


def rows_named(names: Sequence[str] = ()) -> list[Row]:
    """Every workload, or those of these files, by its place on the page. SystemExit for a name that is none."""
    known = sorted(module.name for module in pkgutil.iter_modules(__path__))
    if unknown := sorted(set(names) - set(known)):
        raise SystemExit(f"no workload {', '.join(unknown)}; there are: {', '.join(known)}")
    rows: list[Row] = [importlib.import_module(f"{__name__}.{name}").ROW for name in names or known]
    return sorted(rows, key=lambda row: row.place)
