"""Faults in a live system are seen on the dashboards' own queries, and raise the right alert and no other.

A Prometheus of the test's own reads the pages of a running `lockstep up` every second, by the committed rules with
every `for` and every window shortened by one factor; thresholds and expressions are the committed ones.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import httpx2 as httpx
import psutil
import pytest
from up_support import Up

from deploy.embedded.prometheus import SOURCE, EmbeddedPrometheus, PrometheusSettings
from deploy.grafana.queries import panel_queries
from tools import dashboards_check

pytestmark = [
    pytest.mark.faults,
    pytest.mark.timeout(900),
    *(pytest.mark.needs(what) for what in ("kafka", "redis", "triton", "prometheus")),
]
SHORTER = 2  # by this factor
AFTERWARDS_S = 20.0  # how long nothing else may be raised after the right alert was
CLOSED_S = 110.0  # the same, where frames were lost: they are counted when their places close, after a minute
CALM_S = 240.0
# A slow server: its model processes are held for most of each period. Below a second, or Triton's Python backend takes
# them for dead (it looks for a sign of life after one second) and the launcher replaces them: an outage, not slowness.
HELD_S, RUN_S = 0.7, 0.2
SLOW_S = 330.0
TOLD = (
    "overview/Drops, all sources", "rest/Time in the server",
    "streams/Frames in", "streams/Analysed", "streams/Age of the newest result",
)  # fmt: skip
_DURATION = re.compile(r"(?<=\[)(\d+)([smh])(?=\])|(?<=for: )(\d+)([smh])")
_SECONDS = {"s": 1, "m": 60, "h": 3600}


def shortened(text: str) -> str:
    """Rules with every window and every `for` divided by SHORTER."""

    def shorter(match: re.Match[str]) -> str:
        count, unit = (match[1], match[2]) if match[1] else (match[3], match[4])
        return f"{max(1, int(count) * _SECONDS[unit] // SHORTER)}s"

    return _DURATION.sub(shorter, text)


def test_only_times_are_shortened() -> None:
    text = 'sum(rate(x{a="[5m]"}[5m])) > 0.05 and y > 10\n        for: 2m\n'
    assert "[150s])) > 0.05 and y > 10" in shortened(text) and "for: 60s" in shortened(text)


class Watch:
    """The test's own Prometheus."""

    def __init__(self, up: Up, folder: Path) -> None:
        self.up = up
        (folder / "rules").mkdir(parents=True)
        for path in (SOURCE / "rules").glob("*.yml"):
            (folder / "rules" / path.name).write_text(shortened(path.read_text("utf-8")))
        self._server = EmbeddedPrometheus(PrometheusSettings(folder / "prometheus", folder / "rules"))
        self._server.write({})
        targets = folder / "prometheus" / "targets" / "lockstep.json"
        shutil.copyfile(up.folder / "data" / "prometheus" / "targets" / "lockstep.json", targets)
        config = folder / "prometheus" / "prometheus.yml"
        config.write_text(config.read_text("utf-8").replace("_interval: 5s", "_interval: 1s"))
        assert self._server.start()
        self._client = httpx.Client(base_url=self._server.url, timeout=20)

    def close(self) -> None:
        self._client.close()
        self._server.stop()

    def panel(self, name: str) -> dict[str, float]:
        """The values of the first query of a panel, by source (or model, or "")."""
        query = next(query.text for query in panel_queries() if query.name == name)
        found = self._client.get("/api/v1/query", params={"query": query}).json()["data"]["result"]
        return {_of(row["metric"]): float(row["value"][1]) for row in found}

    def alerts(self, *states: str) -> set[str]:
        """Names of the alerts in these states, with the source or job they speak of."""
        found = self._client.get("/api/v1/alerts").json()["data"]["alerts"]
        labels = [(alert["labels"], alert["state"]) for alert in found]
        return {
            f"{label['alertname']} {label.get('source') or label.get('job', '')}".strip()
            for label, state in labels
            if state in states
        }

    def calm(self) -> None:
        """Wait until no alert is raised or about to be, and frames of both sources are shown."""
        told = "nothing yet"

        def quiet() -> bool:
            nonlocal told
            waiting, shown = self.alerts("pending", "firing"), self.panel("streams/Shown")
            told = f"{sorted(waiting)}, shown {shown}"
            return not waiting and len(shown) == 2 and min(shown.values()) > 1

        try:
            self.up.until(quiet, CALM_S)
        except AssertionError as error:
            raise AssertionError(f"a system without a fault is not calm: {told}\n{error}") from error

    def raised(
        self, expected: set[str], seen: Callable[[], bool], patience_s: float, afterwards_s: float = AFTERWARDS_S
    ) -> None:
        """The panel shows it, and all that is `expected` fires, and nothing else."""
        fired: set[str] = set()

        def found(wanted: Callable[[], bool]) -> bool:
            fired.update(self.alerts("firing"))
            assert fired <= expected, f"{sorted(fired)} fire, expected {sorted(expected)}"
            return wanted()

        for what, wanted in (("on the panel", seen), ("as an alert", lambda: expected <= fired)):
            try:
                self.up.until(partial(found, wanted), patience_s)
            except AssertionError as error:
                told = {name: self.panel(name) for name in TOLD}
                raise AssertionError(f"{expected} is not seen {what}; {told}; {fired}\n{error}") from error
        until = time.monotonic() + afterwards_s
        self.up.until(lambda: found(lambda: time.monotonic() > until), afterwards_s + 30)


def _of(labels: dict[str, str]) -> str:
    return labels.get("source") or labels.get("model", "")


@pytest.fixture(scope="module")
def watch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watch]:
    folder = tmp_path_factory.mktemp("alerts")
    up = Up(folder)
    try:
        watch = Watch(up, folder / "watch")
        try:
            yield watch
        finally:
            watch.close()
        assert up.interrupt() <= 10
    finally:
        up.kill()


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """SIGSTOP, and SIGCONT in the end."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def starved(server_pid: int) -> Iterator[None]:
    """The model processes of a Triton get only a share of the time, as on a machine that is far too small."""
    over = threading.Event()

    def signalled(number: signal.Signals) -> None:
        for process in psutil.Process(server_pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # another took its place
                if "python_backend_stub" in process.name():
                    process.send_signal(number)

    def hold_and_let_run() -> None:
        while not over.is_set():
            signalled(signal.SIGSTOP)
            over.wait(HELD_S)
            signalled(signal.SIGCONT)
            over.wait(RUN_S)

    thread = threading.Thread(target=hold_and_let_run, name="starve")
    thread.start()
    try:
        yield
    finally:
        over.set()  # its last word is SIGCONT
        thread.join()


def test_every_query_of_dashboards_and_alerts_gives_a_number(watch: Watch, capsys: pytest.CaptureFixture[str]) -> None:
    """`make dashboards-check`, against the Prometheus that `lockstep up` started itself."""
    assert watch.up.document["prometheus"]
    status = dashboards_check.main(["--data", watch.up.document["data"]])
    assert status == 0, capsys.readouterr().out


def test_a_silent_camera(watch: Watch) -> None:
    watch.calm()
    with stopped(watch.up.pid("sender-pedestrians")):
        panel = "streams/Age of the newest picture"
        watch.raised(
            {"LockstepSourceSilent pedestrians"},
            lambda: watch.panel(panel)["pedestrians"] > 10 and watch.panel(panel)["coded"] < 5,
            120,
        )


def test_a_stopped_worker(watch: Watch) -> None:
    watch.calm()
    with stopped(watch.up.pid("worker-1")):
        share = "overview/Roles that answer"
        watch.raised({"LockstepRoleDown worker"}, lambda: 0.5 < watch.panel(share)[""] < 1, 120, CLOSED_S)


def test_a_slow_triton(watch: Watch) -> None:
    """Answers come, and late: frames are too old when their turn comes, of every source. One panel says how many, the
    next one says that it is the server."""
    watch.calm()
    drops, server = "overview/Drops, all sources", "rest/Time in the server"

    def seen() -> bool:
        dropped, took = watch.panel(drops), watch.panel(server)
        return len(dropped) == len(took) == 2 and min(dropped.values()) > 0.05 and min(took.values()) > 0.1

    with starved(watch.up.pid("triton")):
        watch.raised({"LockstepDropsHigh coded", "LockstepDropsHigh pedestrians"}, seen, SLOW_S)
