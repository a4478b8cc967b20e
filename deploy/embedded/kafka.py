"""A real Kafka broker of one node (KRaft, no ZooKeeper) on free loopback ports, with a data folder of its own.

    with EmbeddedKafka(BrokerSettings(data=Path("kafka-data"))) as broker:
        connect(broker.bootstrap)

It listens on 127.0.0.1 only, and ends with the process that started it. `stop` and `start` keep ports and data, so
clients find it again; `kill`, `pause` and `resume` are for fault tests.
"""

from __future__ import annotations

import base64
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from deploy.embedded.child import end, start_bound
from deploy.embedded.kafka_jars import KAFKA_HOME, fetch
from serving.errors import Unavailable

START_SECONDS = 60.0
STOP_SECONDS = 15.0
STARTED = "Kafka Server started"


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """data: folder of logs, properties and output. port 0: a free one. properties: on top of ours.

    heap_mb: Java heap; the process is about 100 MB larger. behind: (port listened on, port of a proxy in front of it),
    a second listener for clients that come through that proxy.
    """

    data: Path
    home: Path = KAFKA_HOME
    port: int = 0
    heap_mb: int = 256
    properties: Mapping[str, str] = field(default_factory=dict)
    behind: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535 or self.heap_mb < 64:
            raise ValueError(f"BrokerSettings: expected a port and at least 64 MB of heap, got {self}")


class EmbeddedKafka:
    """One broker. Start it from the thread that lives as long as it shall (see serving.triton.exec_bound)."""

    def __init__(self, settings: BrokerSettings) -> None:
        self.settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._port, self._controller_port = settings.port, 0

    @property
    def bootstrap(self) -> str:
        """host:port for clients; known after the first start."""
        return f"127.0.0.1:{self._port}"

    @property
    def pid(self) -> int | None:
        """The Java process, None while it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def output(self) -> Path:
        """What the broker says."""
        return self.settings.data / "broker.out"

    # -- life -------------------------------------------------------------------------------------------------------

    def start(self, timeout_s: float = START_SECONDS) -> None:
        """Format the data folder where that was not done, start, return when clients can connect.

        Raises Unavailable with the end of the broker's output.
        """
        if self.pid is not None:
            return
        classpath = f"{fetch(self.settings.home)}/*"
        self.settings.data.mkdir(parents=True, exist_ok=True)
        if not self._controller_port:
            self._choose_ports()
        properties = self.settings.data / "server.properties"
        properties.write_text("".join(f"{name}={value}\n" for name, value in self._properties().items()))
        if not (self.settings.data / "log" / "meta.properties").is_file():
            self._format(classpath, properties)
        start = self.output.stat().st_size if self.output.exists() else 0
        self._process = start_bound([*self._java(classpath), "kafka.Kafka", str(properties)], self.output)
        self._wait_until_started(start, timeout_s)

    def stop(self, timeout_s: float = STOP_SECONDS) -> None:
        """In good order: logs are flushed and closed; killed where that takes too long."""
        if self._process is not None:
            end(self._process, timeout_s)
            self._process = None

    def kill(self) -> None:
        """SIGKILL: nothing is flushed."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """SIGSTOP: connections stay, nobody answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def remove_data(self) -> None:
        """Delete the data folder of a stopped broker."""
        if self.pid is not None:
            raise ValueError("EmbeddedKafka.remove_data: expected a stopped broker, it still runs")
        shutil.rmtree(self.settings.data, ignore_errors=True)

    def __enter__(self) -> EmbeddedKafka:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    # -- inside -----------------------------------------------------------------------------------------------------

    def _java(self, classpath: str) -> list[str]:
        java = shutil.which("java")
        if java is None:
            raise Unavailable("embedded Kafka: there is no java", hint="apt-get install default-jre-headless")
        heap = f"{self.settings.heap_mb}m"
        return [
            java, "-Xms64m", f"-Xmx{heap}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto",
            "-Djava.awt.headless=true", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info",
            "-Dorg.slf4j.simpleLogger.showDateTime=true", "-cp", classpath,
        ]  # fmt: skip

    def _properties(self) -> dict[str, str]:
        own = advertised = f"PLAINTEXT://127.0.0.1:{self._port}"
        if self.settings.behind is not None:
            port, proxy = self.settings.behind
            own, advertised = f"{own},BEHIND://127.0.0.1:{port}", f"{own},BEHIND://127.0.0.1:{proxy}"
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{self._controller_port}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"{own},CONTROLLER://127.0.0.1:{self._controller_port}",
            "advertised.listeners": advertised,
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,BEHIND:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": str(self.settings.data / "log"),
            "auto.create.topics.enable": "false",
            "offsets.topic.num.partitions": "4",
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "share.coordinator.state.topic.replication.factor": "1",
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
            "broker.heartbeat.interval.ms": "500",
            "broker.session.timeout.ms": "3000",  # after a kill the node may register again so soon
            "socket.listen.backlog.size": "1024",  # frozen for a while, 50 fill up, and the kernel's retries grow rare
            "log.message.timestamp.type": "LogAppendTime",
            "log.retention.check.interval.ms": "15000",
            "log.segment.delete.delay.ms": "1000",
            "message.max.bytes": str(4 << 20),
            "num.network.threads": "2",
            "num.io.threads": "2",
            "background.threads": "2",
            "log.cleaner.dedupe.buffer.size": str(16 << 20),
            **self.settings.properties,
        }

    def _choose_ports(self) -> None:
        """Two free ports, held open together so that they differ.

        One whose last connections are not forgotten yet is free (SO_REUSEADDR): a broker starts again where it was."""
        with ExitStack() as stack:
            held = [stack.enter_context(socket.socket()) for _ in range(2)]
            for place, port in zip(held, (self._port, 0), strict=True):
                place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    place.bind(("127.0.0.1", port))
                except OSError as error:
                    raise Unavailable(
                        f"embedded Kafka: port {port}: {error.strerror}", hint="--kafka-port 0: any free one"
                    ) from error
            self._port, self._controller_port = (place.getsockname()[1] for place in held)

    def _format(self, classpath: str, properties: Path) -> None:
        cluster = "-"
        while cluster.startswith("-"):  # it would be taken for an option
            cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        command = [*self._java(classpath), "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(properties)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=START_SECONDS, check=False)
        if done.returncode:
            said = " ".join((done.stdout + done.stderr).split())[-500:]
            raise Unavailable(f"embedded Kafka: its data folder could not be formatted: {said}")

    def _wait_until_started(self, start: int, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            ended = self._process is None or self._process.poll() is not None
            with self.output.open("rb") as out:
                out.seek(start)
                said = out.read().decode("utf-8", "replace")
            if STARTED in said:
                return
            if ended:
                self._process = None
                raise Unavailable(f"embedded Kafka ended at its start: {' '.join(said.split())[-800:]}")
            time.sleep(0.1)
        self.kill()
        raise Unavailable(f"embedded Kafka did not start within {timeout_s:.0f} s; see {self.output}")

    def _signal(self, number: int) -> None:
        if self.pid is not None:
            os.kill(self.pid, number)


def main() -> None:
    """Run a broker in the foreground: `python -m deploy.embedded.kafka DATA_FOLDER [PORT]`."""
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python -m deploy.embedded.kafka DATA_FOLDER [PORT]")
    port = int(sys.argv[2]) if len(sys.argv) == 3 else 9092
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):  # set here: a shell starts what it puts behind deaf to Ctrl-C
        signal.signal(number, lambda *_: stop.set())
    with EmbeddedKafka(BrokerSettings(Path(sys.argv[1]), port=port)) as broker:
        sys.stdout.write(f"Kafka listens on {broker.bootstrap}; Ctrl-C or SIGTERM stops it\n")
        sys.stdout.flush()
        while broker.pid is not None and not stop.wait(0.5):
            continue
        sys.stderr.write("stopping\n")


if __name__ == "__main__":
    main()
