"""Schemathesis against a running gateway: every operation, right and wrong data, all checks, stateful."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from serving.config import child_environment


@dataclass(frozen=True, slots=True)
class FuzzReport:
    """What came out. `operations` and `succeeded` hold labels such as `GET /v1/models`."""

    passed: bool
    output: str
    operations: frozenset[str]
    succeeded: frozenset[str]


def fuzz(url: str, folder: Path, examples: int = 50, seconds: float = 240.0) -> FuzzReport:
    """Run it from `folder` (its files stay there). `examples`: for each operation and phase. Raises TimeoutExpired."""
    with urllib.request.urlopen(f"{url}/openapi.json", timeout=20) as answer:
        paths = json.load(answer)["paths"]
    operations = frozenset(f"{method.upper()} {path}" for path, methods in paths.items() for method in methods)
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json"]
    command += ["--max-examples", str(examples), "--mode", "all", "--checks", "all", "--continue-on-failure"]
    command += ["--phases", "examples,coverage,fuzzing,stateful", "--seed", "20", "--no-shrink"]
    command += ["--suppress-health-check", "all", "--request-timeout", "20"]
    root = str(Path(__file__).resolve().parents[2])
    environment = child_environment(SCHEMATHESIS_HOOKS="serving.testing.api_fuzz_hooks", PYTHONPATH=root, NO_COLOR="1")
    (folder / "succeeded.txt").write_text("")
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=seconds, check=False
    )
    # schemathesis leaves out the document's own route; it was answered above
    succeeded = frozenset([*(folder / "succeeded.txt").read_text().splitlines(), "GET /openapi.json"])
    return FuzzReport(done.returncode == 0, done.stdout + done.stderr, operations, succeeded)
