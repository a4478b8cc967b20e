"""`python -m serving.gateway.main`: the gateway as processes under gunicorn. Wiring: settings, models, the server.

The parent verifies the models once and imports neither prometheus nor gRPC; each worker, after its fork, builds the
app and opens its own channels.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gunicorn.app.base import BaseApplication

from serving.bundle import ModelBundle, catalogue, versions_of
from serving.config import Settings, load_settings
from serving.errors import CertificateRefused, LockstepError, StartFailed
from serving.gateway.auth import check_bind
from serving.triton.derive import canary_of

if TYPE_CHECKING:
    from fastapi import FastAPI

    from serving.gateway.readiness import CanaryCheck
    from serving.gateway.streams import StreamServices
    from serving.metrics import Metrics
    from serving.ports import InferenceServer

logger = logging.getLogger("lockstep.gateway")

Canaries = Mapping[str, "CanaryCheck"]
MakeServer = Callable[[], "InferenceServer"]
MakeStreams = Callable[[], "StreamServices | None"]
OnReady = Callable[[str, int], None]
OPEN_FILES = 65_536


class GatewayApplication(BaseApplication):  # type: ignore[misc]
    """gunicorn with options from Settings; `bundles` and `make_server` are handed in."""

    def __init__(
        self,
        settings: Settings,
        bundles: Mapping[str, ModelBundle],
        canaries: Canaries,
        make_server: MakeServer,
        on_ready: OnReady | None = None,
        target: str = "cpu",
        make_streams: MakeStreams = lambda: None,
        refused: int = 0,
    ) -> None:
        check_bind(settings.host, settings.allow_unauthenticated)
        self._settings = settings
        self._bundles = bundles
        self._canaries = canaries
        self._make_server = make_server
        self._on_ready = on_ready
        self._target = target
        self._make_streams = make_streams
        self._refused = refused
        self._metrics_dir = _metrics_folder()
        super().__init__()

    def load_config(self) -> None:
        """gunicorn's settings; its own control socket, configuration files and access log stay off."""
        for name, value in self._options().items():
            self.cfg.set(name, value)

    def load(self) -> FastAPI:
        """The app of one worker, made after the fork."""
        from serving.gateway.app import create_app
        from serving.gateway.catalogue import Catalogue
        from serving.metrics import Metrics, require_multiprocess, reserve_room

        require_multiprocess()
        logging.basicConfig(level=self._settings.log_level.upper())
        lacking = reserve_room(self._metrics_dir)
        models = Catalogue(self._bundles, self._target)
        server, metrics = self._make_server(), Metrics()
        if lacking:
            self._say_lacking(metrics, lacking)
        metrics.set("lockstep_models_refused", self._refused)
        return create_app(
            self._settings, server, models, self._canaries, metrics=metrics,
            metrics_dir=None if lacking else self._metrics_dir, streams=self._make_streams(),
        )  # fmt: skip

    def _say_lacking(self, metrics: Metrics, lacking: str) -> None:
        """Requests are served all the same. A page of one worker of several would be wrong, so there is none."""
        told = "/metrics is what this worker counts in memory"
        if self._settings.workers > 1:
            metrics.untold = "the disk had no room for the metrics of several workers when they started"
            told = "/metrics is 503"
        logger.error("%s: requests are served, %s until a start with room; TMPDIR names another place", lacking, told)

    def _options(self) -> dict[str, Any]:
        from serving.gateway.worker import EXIT_WITHIN_S, KEEP_ALIVE_S, MARGIN_S

        s = self._settings
        host = f"[{s.host}]" if ":" in s.host else s.host
        return {
            "bind": f"{host}:{s.port}",
            "workers": s.workers,
            "worker_class": "serving.gateway.worker.GatewayWorker",
            "keepalive": KEEP_ALIVE_S,
            "timeout": 30,
            "graceful_timeout": int(EXIT_WITHIN_S - MARGIN_S),
            "backlog": 1024,
            "loglevel": s.log_level,
            "proc_name": "lockstep-gateway",
            "control_socket_disable": True,
            "raw_env": [f"PROMETHEUS_MULTIPROC_DIR={self._metrics_dir}"],
            "when_ready": self._announce,
            "child_exit": self._forget,
        }

    def _announce(self, arbiter: Any) -> None:
        host, port = arbiter.LISTENERS[0].sock.getsockname()[:2]
        if self._on_ready is not None:
            self._on_ready(host, port)

    def _forget(self, arbiter: Any, worker: Any) -> None:
        from serving.metrics import forget_process

        forget_process(worker.pid, self._metrics_dir)

    def run(self) -> None:
        """Serve until a signal; the metrics' folder goes with the parent, not with a worker that ends."""
        parent = os.getpid()
        try:
            super().run()
        finally:
            if os.getpid() == parent:
                shutil.rmtree(self._metrics_dir, ignore_errors=True)


def _metrics_folder() -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix="lockstep-metrics-"))
    except OSError as error:
        raise StartFailed(
            f"no folder for the metrics of the workers: {error.strerror}", hint="TMPDIR: a folder that takes files"
        ) from error


def serve(
    settings: Settings,
    bundles: Mapping[str, ModelBundle],
    canaries: Canaries,
    make_server: MakeServer,
    on_ready: OnReady | None = None,
    target: str = "cpu",
    make_streams: MakeStreams = lambda: None,
    refused: int = 0,
) -> None:
    """Serve until a signal ends it; then SystemExit, as gunicorn does. Raises ConfigInvalid for a bind address that
    others can reach. Call it in a process that has not imported prometheus_client. refused: models that are not
    served for want of a certificate, for the metrics."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    GatewayApplication(settings, bundles, canaries, make_server, on_ready, target, make_streams, refused).run()


def servable(settings: Settings, names: list[str], target: str) -> tuple[dict[str, ModelBundle], int]:
    """The models to serve (those named, or all that are certified), and how many the repository holds that are refused.
    Raises CertificateRefused for a named one that is, or where there is none at all."""
    good, bad = _staged(settings.repository) if settings.staging else catalogue(settings.repository, target)
    for name in names:
        if name not in good:
            raise bad.get(name) or CertificateRefused(f"{name}: not in {settings.repository}")
    for name, error in bad.items():
        logger.warning("model %s is not served: %s", name, error)
    if not good:
        raise CertificateRefused(f"{settings.repository}: no certified model", hint="run `lockstep convert` first")
    return ({name: good[name] for name in names} if names else good), len(bad)


def _staged(repository: Path) -> tuple[dict[str, ModelBundle], dict[str, CertificateRefused]]:
    """Every model's newest version without a look at its certificate: for the converter's private staging only."""
    names = sorted(p.name for p in repository.iterdir() if p.is_dir()) if repository.is_dir() else []
    newest = {name: versions_of(repository, name)[:1] for name in names}
    return {name: ModelBundle.staging(found[0]) for name, found in newest.items() if found}, {}


def argument_parser() -> argparse.ArgumentParser:
    """The command line of `python -m serving.gateway.main`."""
    parser = argparse.ArgumentParser(prog="serving.gateway.main", description=__doc__)
    parser.add_argument("models", nargs="*", help="models to serve (all certified ones)")
    parser.add_argument("--config", type=Path)
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--triton", dest="triton_url", help="grpc://host:port[,grpc://...] of the inference servers")
    parser.add_argument("--target", default="cpu", choices=("cpu", "gpu"))
    parser.add_argument("--allow-unauthenticated", action="store_true", default=None)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Parse, check, serve. Exit 1: it could not start; 2: usage."""
    given = vars(argument_parser().parse_args(arguments))
    names, config, target = given.pop("models"), given.pop("config"), given.pop("target")
    try:
        settings = load_settings(config, **given).settings
        bundles, refused = servable(settings, names, target)
        canaries = {name: canary_of(bundle.version_dir, settings, target) for name, bundle in bundles.items()}
        serve(
            settings, bundles, canaries, lambda: make_triton(settings), _print_address, target,
            lambda: make_streams(settings), refused,
        )  # fmt: skip
    except LockstepError as error:
        sys.stderr.write(f"{error.code}: {error}\n")
        return 1
    return 0


def make_triton(settings: Settings) -> InferenceServer:
    """The adapter to the Tritons at `triton_url`, made in the worker."""
    adapter: Any = importlib.import_module("serving.adapters.triton_pool")
    server: InferenceServer = adapter.open_triton(settings.triton_url)
    return server


def make_streams(settings: Settings) -> StreamServices | None:
    """Log, index and the rules for sources of the settings, made in the worker; None where no Kafka is configured."""
    if not settings.kafka:
        return None
    from serving.clock import SystemClock
    from serving.gateway.streams import StreamServices

    kafka: Any = importlib.import_module("serving.adapters.kafka")
    sources: Any = importlib.import_module("serving.roles.sources")
    address: Any = importlib.import_module("serving.adapters.video.address")
    index: Any = importlib.import_module("serving.roles.index_open")
    options = kafka.KafkaOptions(settings.kafka, "lockstep-gateway", delivery_timeout_s=5.0)
    return StreamServices(
        kafka.KafkaLog(options), index.open_index(settings), lambda topic: settings.kafka_prefix + topic,
        lambda stream: sources.check_registered(settings, stream), address.redacted, settings.mixed_dir, SystemClock(),
    )  # fmt: skip


def _print_address(host: str, port: int) -> None:
    sys.stdout.write(f"gateway http://{f'[{host}]' if ':' in host else host}:{port}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
