"""`/healthz`, `/readyz` and `/metrics` of a role, on the loopback interface unless told otherwise, while it runs.

healthz: the loop turns; it depends on nothing else. readyz: 200, or 503 with the reasons; a broker that does not answer
is one. Both are JSON; metrics is Prometheus' text format.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from serving.config import Settings
from serving.errors import LockstepError, Unavailable
from serving.machine import MachineWatch, machine_watch
from serving.metrics import CONTENT_TYPE
from serving.ports_log import RecordLog
from serving.roles.monitor import RoleMonitor
from serving.roles.names import Names

LOG_LOOK_S = 2.0
JSON_TYPE = "application/json"
Answer = tuple[int, str, bytes]


def answer(monitor: RoleMonitor, path: str, machine: MachineWatch | None = None) -> Answer:
    """Status, content type and body. machine: looked at whenever the metrics are asked for."""
    if path == "/metrics":
        if machine is not None:
            machine.look()
        return 200, CONTENT_TYPE, monitor.metrics.exposition()
    if path == "/readyz":
        document = monitor.document()
        return 200 if document["ready"] else 503, JSON_TYPE, json.dumps(document).encode()
    if path == "/healthz":
        stuck = monitor.is_stuck()
        return 503 if stuck else 200, JSON_TYPE, json.dumps({"role": monitor.role, "alive": not stuck}).encode()
    return 404, JSON_TYPE, json.dumps({"code": "not_found", "paths": ["/healthz", "/readyz", "/metrics"]}).encode()


def open_page(monitor: RoleMonitor, settings: Settings, log: RecordLog, names: Names) -> AbstractContextManager[int]:
    """The page of a running role, where the settings say."""
    machine = machine_watch(monitor.metrics, settings)
    return role_page(monitor, settings.role_metrics_port, log, names, machine, settings.role_metrics_host)


@contextmanager
def role_page(
    monitor: RoleMonitor,
    port: int,
    log: RecordLog | None = None,
    names: Names | None = None,
    machine: MachineWatch | None = None,
    host: str = "127.0.0.1",
) -> Iterator[int]:
    """Serve on `host` (port 0: any free one, said in one line on stderr); gives the port. Raises Unavailable.

    log, names: look at the broker every two seconds, beside the loop; a topic that is gone is named.
    """

    class Page(BaseHTTPRequestHandler):
        timeout = 5
        server_version, sys_version = "lockstep", ""

        def do_GET(self) -> None:
            status, kind, body = answer(monitor, self.path.partition("?")[0], machine)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            with suppress(ConnectionError):  # whoever asked has gone: a scrape that took too long, a page closed
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Quiet: stderr is for what the role has to say."""

    try:
        server = ThreadingHTTPServer((host, port), Page)
    except (OSError, OverflowError) as error:
        raise Unavailable(
            f"--metrics-port {port} on {host}: {error}", hint="choose another port, or 0 for any"
        ) from error
    stop = threading.Event()
    threads = [threading.Thread(target=server.serve_forever, args=(0.1,), name="page", daemon=True)]
    if log is not None and names is not None:
        threads.append(threading.Thread(target=_watch(monitor, log, names, stop), name="broker", daemon=True))
    for thread in threads:
        thread.start()
    address = server.server_address[1]
    print(f"{monitor.role}: http://{host}:{address}/ has healthz, readyz, metrics", file=sys.stderr, flush=True)  # noqa: T201
    try:
        yield int(address)
    finally:
        stop.set()
        server.shutdown()
        server.server_close()
        threads[0].join()


def _watch(monitor: RoleMonitor, log: RecordLog, names: Names, stop: threading.Event) -> Callable[[], None]:
    topic = names.topic("frames")

    def look() -> None:
        while not stop.wait(LOG_LOOK_S):
            try:
                log.partitions(topic)
            except LockstepError as error:
                monitor.wrong("log", f"{error.code}: {error.message}")
            else:
                monitor.right("log")

    return look
