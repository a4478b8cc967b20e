"""The whole distributed system on one machine, without containers: what `lockstep up` starts, watches and stops.

    Kafka, Redis, Triton (embedded)   gateway   ingest -> worker x 2 -> mixer, accountant   two sample sources
    Prometheus over all of them, where this machine has one

Brokers, Triton and roles are processes of their own on loopback; each ends with this one, whatever ends it. A role that
dies is started again under the name it had in its group, so its partitions wait for it.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import httpx2 as httpx
import yaml

from deploy.embedded.kafka import BrokerSettings, EmbeddedKafka
from deploy.embedded.prometheus import PACKAGE, EmbeddedPrometheus, PrometheusSettings
from deploy.embedded.redis import EmbeddedRedis, RedisSettings
from deploy.embedded.samples import SAMPLES, Sample, make_clips
from deploy.embedded.service import Service
from serving.config import Settings, as_environment, child_environment
from serving.errors import StartFailed, Unavailable
from serving.free_ports import UDP, free_port, free_ports
from serving.records import StreamMessage
from serving.roles.main import open_log
from serving.roles.registry import open_registry
from serving.topics import apply, load_topics, plan_topics
from serving.triton.embedded import EmbeddedTriton

TRITON_SECONDS, READY_SECONDS = 180.0, 180.0
STOP_SECONDS = 9.0  # all of it, from the signal on
WATCH_SECONDS = 0.2
LOOPBACK = "127.0.0.1"
DOCUMENT = "up.json"  # what runs, in the data folder while it does
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class UpOptions:
    """data: folder of brokers, clips and logs. kafka_port 0: a free one. samples: send and register two sources."""

    data: Path
    kafka_port: int = 0
    samples: bool = True
    workers: int = 2
    prometheus_port: int = 0


class System:
    """`start`, then `watch` every WATCH_SECONDS, then `stop`; all from the main thread."""

    def __init__(self, settings: Settings, options: UpOptions, say: Say, told: TextIO = sys.stderr) -> None:
        self._options, self._say, self._told = options, say, told
        self.data = options.data.resolve()
        self.kafka = EmbeddedKafka(BrokerSettings(self.data / "kafka", port=options.kafka_port))
        self.redis = EmbeddedRedis(RedisSettings(self.data / "redis"))
        self.prometheus = EmbeddedPrometheus(PrometheusSettings(self.data / "prometheus", port=options.prometheus_port))
        self.triton: EmbeddedTriton | None = None
        self.services: list[Service] = []
        self.settings = _own(settings)

    @property
    def models(self) -> tuple[str, ...]:
        """Those of the samples."""
        return tuple(dict.fromkeys(sample.model for sample in SAMPLES))

    @property
    def gateway(self) -> str:
        """Its address."""
        return f"http://{LOOPBACK}:{self.settings.port}"

    @property
    def config_file(self) -> Path:
        """Settings for `lockstep ... --config`, with the addresses of this system."""
        return self.data / "lockstep.yaml"

    # -- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Everything, each once what it needs is there. Raises Unavailable and StartFailed with what to do."""
        (self.data / "logs").mkdir(parents=True, exist_ok=True)
        self._say("Kafka ...")
        self.kafka.start()
        self._say(f"Redis on {self._started_redis()}")
        self.settings = self.settings.model_copy(update={"kafka": self.kafka.bootstrap, "redis": self.redis.url})
        self._write_config()
        self._make_topics()
        self._say(f"Triton with {', '.join(self.models)} ...")
        self.triton = EmbeddedTriton(self.settings.repository, self.models, self.settings)
        self.triton.start(TRITON_SECONDS, strict=True)
        self.triton.wait_ready(TRITON_SECONDS)
        if self._options.samples:
            make_clips(self.data / "samples")
            self._register()
        self.services = list(self._roles(f"grpc://{self.triton.grpc_url}"))
        for service in self.services:
            service.log.write_bytes(b"")
            service.start()
        self._say("gateway, ingest, workers, mixer, accountant ...")
        self._wait_until_ready()
        self.prometheus.write(self._pages())
        self._start_prometheus()
        (self.data / DOCUMENT).write_text(json.dumps(self.document()))

    def watch(self) -> None:
        """Start again what died."""
        if self.kafka.pid is None:
            self._say("Kafka ended; started again with its data")
            self.kafka.start()
        if self.redis.pid is None:
            self._say("Redis ended; started again: the accountant writes the index anew")
            self.redis.start()
        if self.prometheus.started and self.prometheus.pid is None:
            self._say("Prometheus ended; started again with its data")
            self._start_prometheus()
        for service in self.services:
            service.watch(self._told)

    def stop(self) -> None:
        """Nothing that was started lives after this: sources first, then roles, then what they stand on."""
        (self.data / DOCUMENT).unlink(missing_ok=True)
        began = time.monotonic()
        first = [s for s in self.services if s.name == "ingest"]  # before its cameras: a silent one holds up its reader
        rest = [s for s in self.services if s not in first]
        for services, until in ((first, began + 4.0), (rest, began + STOP_SECONDS - 2.5)):
            for service in services:
                service.ask_to_end()
            for service in services:
                if not service.end(until):
                    self._say(f"{service.name} did not end in time and was killed")
        left = max(1.0, began + STOP_SECONDS - time.monotonic())
        stops: list[Callable[[], None]] = [
            lambda: self.kafka.stop(left),
            lambda: self.redis.stop(left),
            self.prometheus.stop,
        ]
        stops += [self.triton.stop] if self.triton is not None else []
        threads = [threading.Thread(target=stop) for stop in stops]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def document(self) -> dict[str, Any]:
        """What runs and where to look."""
        logs = self.data / "logs"
        rows = [
            {"what": "kafka", "pid": self.kafka.pid, "where": self.kafka.bootstrap, "log": str(self.kafka.output)},
            {"what": "redis", "pid": self.redis.pid, "where": self.redis.shown, "log": str(self.redis.output)},
        ]
        if self.triton is not None:
            rows.append({"what": "triton", "pid": self.triton.pid, "where": self.triton.grpc_url, "log": ""})
        found = self.prometheus
        where = found.url if found.pid else f"not running: apt-get install {PACKAGE}"
        rows.append({"what": "prometheus", "pid": found.pid, "where": where, "log": str(found.output)})
        rows += [{"what": s.name, "pid": s.pid, "where": s.where, "log": str(s.log)} for s in self.services]
        base = f"{self.gateway}/v1/streams"
        streams = [
            {"source_id": sample.source_id, "model": sample.model, "hls": f"{base}/{sample.source_id}/hls/index.m3u8"}
            for sample in (SAMPLES if self._options.samples else ())
        ]
        return {
            "gateway": self.gateway, "prometheus": found.url if found.pid else "", "config": str(self.config_file),
            "data": str(self.data), "logs": str(logs), "mixed": str(self.settings.mixed_dir), "services": rows,
            "streams": streams,
        }  # fmt: skip

    # -- inside -----------------------------------------------------------------------------------------------------

    def _started_redis(self) -> str:
        self.redis.start()
        return self.redis.shown

    def _start_prometheus(self) -> None:
        """The system is whole without it, so what keeps it from starting is said and no more."""
        try:
            if not self.prometheus.start():
                self._say(f"no Prometheus here: nothing is scraped; apt-get install {PACKAGE}, then start again")
        except Unavailable as error:
            self._say(f"{error}: nothing is scraped")

    def _pages(self) -> dict[str, list[str]]:
        """The metrics pages of all that runs, by the jobs of docs/monitoring.md."""
        pages: dict[str, list[str]] = {"gateway": [f"{self.gateway}/metrics"]}
        if self.triton is not None:
            pages["triton"] = [self.triton.metrics_url]
        for service in self.services:
            if service.where.endswith("/metrics"):
                pages.setdefault(service.name.partition("-")[0], []).append(service.where)
        return pages

    def _write_config(self) -> None:
        """Readable by its owner only: the password of Redis is in it. `triton_url` is not: we ask our own."""
        values = self.settings.model_dump(mode="json", exclude_defaults=True, exclude={"triton_url"})
        self.config_file.touch(mode=0o600)
        self.config_file.chmod(0o600)
        self.config_file.write_text(yaml.safe_dump(values))

    def _make_topics(self) -> None:
        from serving.adapters.kafka import KafkaOptions, KafkaTopics
        from serving.cli.commands_topics import default_file, retention_of

        admin, settings = KafkaTopics(KafkaOptions(self.kafka.bootstrap)), self.settings
        plan = plan_topics(
            load_topics(default_file()), retention_of(settings), admin, settings.kafka_profile, settings.kafka_prefix
        )
        if plan.refused:
            raise StartFailed("; ".join(plan.refused), hint="lockstep topics diff")
        apply(plan, admin, False)

    def _register(self) -> None:
        """Before ingest starts, so that it never sees addresses of an earlier run."""
        self._addresses = {s.source_id: f"udp://{LOOPBACK}:{free_port(UDP)}" for s in SAMPLES}
        with open_registry(*open_log(self.settings, "up")) as registry:
            for sample in SAMPLES:
                shutil.rmtree(self.settings.mixed_dir / sample.source_id, ignore_errors=True)  # of an earlier run
                registry.write(_stream(sample, self._addresses[sample.source_id]))

    def _roles(self, triton_url: str) -> Iterator[Service]:
        lockstep = str(Path(sys.executable).with_name("lockstep"))
        models = [word for name in self.models for word in ("--model", name)]
        commands = {"accountant": ["accountant", "--member", "accountant-1"]}
        commands |= {
            f"worker-{n}": ["worker", *models, "--triton", triton_url, "--member", f"worker-{n}"]
            for n in range(1, self._options.workers + 1)
        }
        commands["mixer"] = ["mixer", "--output", str(self.settings.mixed_dir), "--member", "mixer-1"]
        commands["ingest"] = ["ingest", "--member", "ingest-1"]
        ports = free_ports(len(commands))
        gateway = [sys.executable, "-m", "serving.gateway.main", *self.models]
        environment = child_environment(**as_environment(self.settings.model_copy(update={"triton_url": triton_url})))
        yield self._service("gateway", gateway, environment, f"{self.gateway}/readyz", f"{self.gateway}/docs")
        for (name, command), port in zip(commands.items(), ports, strict=True):
            own = self.settings.model_copy(update={"role_metrics_port": port})
            page = f"http://{LOOPBACK}:{port}"
            environment = child_environment(**as_environment(own))
            yield self._service(name, [lockstep, *command], environment, f"{page}/readyz", f"{page}/metrics")
        for sample in SAMPLES if self._options.samples else ():
            address = self._addresses[sample.source_id]
            command = [
                sys.executable,
                "-m",
                "deploy.embedded.sender",
                str(self.data / "samples" / sample.clip),
                address,
            ]
            yield self._service(f"sender-{sample.source_id}", command, child_environment(), "", address)

    def _service(self, name: str, command: list[str], environment: dict[str, str], ready: str, where: str) -> Service:
        return Service(name, command, environment, self.data / "logs" / f"{name}.log", ready, where)

    def _wait_until_ready(self) -> None:
        deadline, waiting = time.monotonic() + READY_SECONDS, [s for s in self.services if s.ready_url]
        while waiting:
            self.watch()
            waiting = [service for service in waiting if not _answers(service.ready_url)]
            if waiting and time.monotonic() > deadline:
                names = ", ".join(f"{service.name} ({service.log})" for service in waiting)
                raise Unavailable(f"not ready after {READY_SECONDS:.0f} s: {names}", hint="their logs say why")
            time.sleep(WATCH_SECONDS)


@contextmanager
def only_one(lock_file: Path, hint: str) -> Iterator[None]:
    """Two systems in one data folder would share a broker's files, in one for mixed video write over each other's.

    Raises StartFailed with the hint.
    """
    folder = lock_file.parent
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        lock = stack.enter_context(lock_file.open("w"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StartFailed(f"{folder}: another `lockstep up` uses this folder", hint=hint) from error
        yield


def _own(settings: Settings) -> Settings:
    """The settings of a system without a balancer, on the cores of this machine."""
    hosts = ",".join(filter(None, (settings.sources_allowed_hosts, LOOPBACK)))
    return settings.model_copy(
        update={
            "repository": settings.repository.resolve(),
            "mixed_dir": settings.mixed_dir.resolve(),
            "cache_dir": settings.cache_dir.resolve(),
            "triton_home": settings.triton_home.resolve(),
            "host": LOOPBACK,
            "port": settings.port or free_port(),
            "workers": max(1, min(settings.workers, (os.cpu_count() or 1) // 2)),
            "drain_s": 0.0,
            "sources_allowed_hosts": hosts,
        }
    )


def _stream(sample: Sample, address: str) -> StreamMessage:
    return StreamMessage(
        sample.source_id, address, (sample.model,), sample.every, sample.delay_ms, mixed=True, max_fps=30,
        captions=sample.captions, track=sample.track,
    )  # fmt: skip


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False
