"""A real Prometheus on a free loopback port over the pages of one system, with the rules and alerts of this repository.

Everything lies in a folder of its own: the configuration and rules of `deploy/prometheus`, the targets, and the data of
the last day. The files are written whether or not there is a Prometheus here, so that another one can use them.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from deploy.embedded.child import end, start_bound
from serving.errors import Unavailable
from serving.free_ports import free_port

SOURCE = Path(__file__).resolve().parents[1] / "prometheus"
PROGRAM, PACKAGE = "prometheus", "prometheus"
START_SECONDS, STOP_SECONDS = 20.0, 3.0


@dataclass(frozen=True, slots=True)
class PrometheusSettings:
    """data: folder of its configuration, targets and series. rules: folder of rule files. port 0: a free one."""

    data: Path
    rules: Path = SOURCE / "rules"
    port: int = 0


class EmbeddedPrometheus:
    """One server. Start it from the thread that lives as long as it shall (see serving.triton.exec_bound)."""

    def __init__(self, settings: PrometheusSettings) -> None:
        self.settings = settings
        self._port = settings.port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its page and its API; "" before its first start."""
        return f"http://127.0.0.1:{self._port}" if self._port else ""

    @property
    def pid(self) -> int | None:
        """None while it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def started(self) -> bool:
        """It was started and not stopped; with `pid` None it ended by itself."""
        return self._process is not None

    @property
    def output(self) -> Path:
        """What it says."""
        return self.settings.data / "prometheus.out"

    def write(self, targets: Mapping[str, Sequence[str]]) -> None:
        """Configuration, rules and targets. targets: /metrics pages (http://HOST:PORT/metrics) by job."""
        data = self.settings.data
        for folder in (data / "rules", data / "targets"):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.settings.rules, data / "rules")
        shutil.copyfile(SOURCE / "prometheus.yml", data / "prometheus.yml")
        (data / "targets").mkdir()
        groups = [
            {"targets": [urlsplit(page).netloc for page in pages], "labels": {"job": job}}
            for job, pages in targets.items()
        ]
        (data / "targets" / "lockstep.json").write_text(json.dumps(groups, indent=2) + "\n")

    def start(self) -> bool:
        """Return when it answers; False where this machine has no Prometheus. Raises Unavailable with what it said."""
        program = shutil.which(PROGRAM)
        if program is None or self.pid is not None:
            return self.pid is not None
        if not self._port:
            self._port = free_port()
        options = [
            f"--config.file={self.settings.data / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.settings.data / 'series'}",
            "--storage.tsdb.retention.time=1d",
            f"--web.listen-address=127.0.0.1:{self._port}",
        ]
        self._process = start_bound([program, *options], self.output)
        self._wait_until_it_answers()
        return True

    def stop(self, timeout_s: float = STOP_SECONDS) -> None:
        """In good order, killed where that takes too long."""
        if self._process is not None:
            end(self._process, timeout_s)
            self._process = None

    # -- inside -----------------------------------------------------------------------------------------------------

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.pid is None:
                self._process = None
                said = " ".join(self.output.read_text("utf-8", "replace").split())[-500:]
                raise Unavailable(f"Prometheus ended at its start: {said}", hint=f"see {self.output}")
            if self._answers():
                return
            time.sleep(0.05)
        self.stop()
        raise Unavailable(f"Prometheus did not answer within {START_SECONDS:.0f} s; see {self.output}")

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False
