"""up: the whole distributed system on this machine, until Ctrl-C."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serving.cli.output import print_json, print_table, say, settings_from

if TYPE_CHECKING:
    from serving.config import Settings

Json = Annotated[bool, typer.Option("--json", help="what runs, as one JSON document, once it is up")]
Config = Annotated[Path | None, typer.Option("--config", help="settings file (YAML)")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(up)


def up(
    data: Annotated[Path, typer.Option(help="folder of the brokers, sample clips and logs")] = Path("output/up"),
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="port of the gateway; 0: any free one")] = None,
    kafka_port: Annotated[int, typer.Option(min=0, max=65535, help="port of the broker; 0: any free one")] = 0,
    workers: Annotated[int, typer.Option(min=1, max=12, help="worker processes")] = 2,
    prometheus_port: Annotated[int, typer.Option(min=0, max=65535, help="port of Prometheus; 0: any free one")] = 0,
    samples: Annotated[bool, typer.Option(help="send and register the two sample sources")] = True,
    repository: Annotated[Path | None, typer.Option("--repository", help="model repository")] = None,
    config: Config = None, json: Json = False,
) -> None:  # fmt: skip
    """Kafka, Redis, Triton, gateway, every role, Prometheus and two sample sources, until Ctrl-C."""
    from deploy.embedded.up import WATCH_SECONDS, System, UpOptions, only_one
    from serving.launcher import require_free_port

    settings = settings_from(config, port=port, repository=repository)
    check_programs()
    require_free_port("127.0.0.1", settings.port)
    require_free_port("127.0.0.1", kafka_port)
    require_free_port("127.0.0.1", prometheus_port)
    own_data = only_one(data / "up.lock", "--data FOLDER")
    own_video = only_one(settings.mixed_dir / ".up.lock", "LOCKSTEP_MIXED_DIR=FOLDER")
    with own_data, own_video, ended_by_signals() as over:
        system = System(settings, UpOptions(data, kafka_port, samples, workers, prometheus_port), say)
        publish_missing(system.settings, system.models)
        try:
            system.start()
            _show(system.document(), json)
            while True:
                time.sleep(WATCH_SECONDS)
                system.watch()
        except KeyboardInterrupt:
            say("stopping ...")
        finally:
            over()
            system.stop()
    say("stopped: nothing runs any more")


def check_programs() -> None:
    """Unavailable names everything that is missing, and how to get it, before anything starts."""
    from deploy.embedded.kafka_jars import jars_present
    from serving.errors import Unavailable

    wanted = {"java": "default-jre-headless", "redis-server": "redis-server"}
    if not jars_present():
        wanted["mvn"] = "maven"
    missing = {program: package for program, package in wanted.items() if shutil.which(program) is None}
    if missing:
        raise Unavailable(
            f"lockstep up: this machine lacks {', '.join(missing)}",
            hint=f"apt-get install {' '.join(missing.values())}; `make up` does it",
        )


def publish_missing(settings: Settings, models: tuple[str, ...]) -> None:
    """Convert what has no certified version yet. Raises CertificateRefused where that fails."""
    from deploy.embedded.samples import ROOT
    from serving.bundle import catalogue
    from serving.errors import CertificateRefused

    good, _ = catalogue(settings.repository)
    for name in models:
        if name in good:
            continue
        say(f"{name} is not published yet: converting it (once, some minutes)")
        command = [str(Path(sys.executable).with_name("lockstep")), "convert", str(ROOT / "models" / f"{name}.yaml")]
        command += ["--repository", str(settings.repository)]
        if subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=False).returncode:
            raise CertificateRefused(f"{name} could not be converted; its lines above say why")


@contextmanager
def ended_by_signals() -> Iterator[Callable[[], None]]:
    """SIGTERM and SIGINT raise KeyboardInterrupt once; after the given call is made they are ignored."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        over()
        raise KeyboardInterrupt

    def over() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield over
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _show(document: dict[str, Any], json: bool) -> None:
    if json:
        print_json(document)
        return
    print_table("runs", [{**row, "log": Path(row["log"]).name} for row in document["services"]])
    print_table("streams", document["streams"])
    rows = [
        {"what": "is it well", "how": f"curl {document['gateway']}/v1/streams"},
        {"what": "mixed video", "how": f"ffplay {document['streams'][0]['hls']}" if document["streams"] else ""},
        {"what": "every frame accounted for", "how": f"lockstep ledger --all --config {document['config']}"},
        {"what": "metrics and alerts", "how": f"{document['prometheus']}/alerts" if document["prometheus"] else ""},
        {"what": "logs", "how": document["logs"]},
        {"what": "end all of it", "how": "Ctrl-C"},
    ]
    print_table("look here", rows)
