"""Plain FastAPI: a worker a core, inference inline, the BEST loop inside. `LOADTEST_VERSION_DIR` names the model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request

from loadtest.loops import best_loop
from loadtest.workload import Workload

app = FastAPI(title="plain FastAPI peer")
_run = best_loop(Workload.read(Path(os.environ["LOADTEST_VERSION_DIR"])))


@app.post("/infer")
async def infer(request: Request) -> dict[str, Any]:
    """A JPEG body in, the answer out."""
    return {"answer": _run([await request.body()])[0]}


@app.get("/")
async def ready() -> dict[str, str]:
    """Up."""
    return {"state": "ready"}
