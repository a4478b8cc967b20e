"""`lockstep ingest`: registered sources, a process each; one that dies is its own loss; others take over a dead one."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from ingest_support import Camera, Ingest, make_clip, one_in_each_partition
from typer.testing import CliRunner

from deploy.embedded.kafka import EmbeddedKafka
from serving.cli import commands_ingest
from serving.errors import LockstepError

pytestmark = pytest.mark.needs("kafka")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4")


@pytest.fixture
def system(kafka: EmbeddedKafka, tmp_path: Path) -> Iterator[Ingest]:
    made = Ingest(tmp_path, kafka.bootstrap)
    yield made
    made.kill()


@pytest.fixture
def cameras(clip: Path) -> Iterator[list[Camera]]:
    made = [Camera(clip) for _ in range(2)]
    yield made
    for camera in made:
        camera.stop()


def test_registered_changed_and_removed_live(system: Ingest, cameras: list[Camera], clip: Path) -> None:
    """Two cameras and a file that nobody allowed; a decoder killed; a change; a removal; and nothing is left."""
    for name, camera in zip(("gate", "yard"), cameras, strict=True):
        code, said = system.lockstep("streams", "add", name, camera.address, "--model", "person")
        assert code == 0, said
    code, said = system.lockstep("streams", "add", "clip", str(clip), "--model", "person")
    assert code == 1 and "error[source_refused]" in said and "sources_allowed_folders" in said
    system.start("ingest")
    system.until(lambda: all(system.newest(name)[1] > 10 for name in ("gate", "yard")))
    assert len(system.children("ingest")) == 2

    child = system.children("ingest")[0]
    child.kill()
    before = {name: system.newest(name) for name in ("gate", "yard")}
    system.until(lambda: len(system.children("ingest")) == 2)
    system.until(lambda: all(system.newest(name) > (e, s + 15) for name, (e, s) in before.items()))
    epochs = sorted(system.newest(name)[0] for name in ("gate", "yard"))
    assert epochs == [1, 2], "the other source noticed nothing"

    code, said = system.lockstep("streams", "change", "gate", "--every", "3")
    assert code == 0, said
    epoch = system.newest("gate")[0]
    system.until(lambda: system.newest("gate") > (epoch + 1, 6))
    newest = [m.record for m in system.frames("gate") if m.record.epoch == epoch + 1]
    assert sum(getattr(r, "analyse", False) for r in newest) <= len(newest) // 3 + 1

    code, said = system.lockstep("streams", "remove", "yard")
    assert code == 0, said
    system.until(lambda: len(system.children("ingest")) == 1)
    system.until(lambda: system.ended("yard") is not None or system.newest("yard")[0] == 2)
    code, said = system.lockstep("streams", "list", "--all", "--json")
    assert code == 0 and '"removed"' in said and '"active"' in said
    left = system.children("ingest")
    system.running["ingest"].send_signal(signal.SIGTERM)
    assert system.running["ingest"].wait(10) == 0
    assert not any(child.is_running() for child in left)
    assert system.ended("gate") is None, "handed over, not over"


def refused(system: Ingest, *arguments: str) -> LockstepError:
    """The error that ends `lockstep streams ...`."""
    app = typer.Typer()
    commands_ingest.register(app)
    app.callback()(lambda: None)
    found = CliRunner().invoke(app, ["streams", *arguments, "--config", str(system.config)])
    assert found.exit_code == 1 and isinstance(found.exception, LockstepError), found.output
    return found.exception


def test_bad_names_and_places(system: Ingest) -> None:
    def add(name: str, address: str) -> LockstepError:
        return refused(system, "add", name, address, "--model", "person")

    for name in ("gates/1", "g" * 300):
        error = add(name, "udp://127.0.0.1:5000")
        assert error.code == "record_invalid" and "source_id" in str(error) and len(str(error)) < 300
    for address in ("udp://10.0.0.7:5000", "gopher://127.0.0.1/", "file:///etc/passwd", "rtsp://{HOME}@127.0.0.1/"):
        assert add("gate", address).code == "source_refused"
    for path in ("admin:hunter2@127.0.0.1/", "127.0.0.1/user=admin&password=hunter2", "127.0.0.1?token=hunter2"):
        error = add("gate", f"rtsp://{path}")
        assert error.code == "record_invalid" and "hunter2" not in str(error)
    assert refused(system, "remove", "nobody").code == "not_found"


@pytest.mark.faults
def test_f10_two_share_the_cameras_and_one_takes_over_a_dead_one_s(system: Ingest, clip: Path) -> None:
    """kill -9 of one of two; a stopped one comes back to find that its source has a higher epoch."""
    cameras = [Camera(clip) for _ in range(4)]
    names = one_in_each_partition("s")
    try:
        for name, camera in zip(names, cameras, strict=True):
            assert system.lockstep("streams", "add", name, camera.address, "--model", "person")[0] == 0
        for process in ("one", "two"):
            system.start(process)
        system.until(lambda: all(system.newest(name)[1] > 10 for name in names))
        system.until(lambda: bool(system.children("one")) and bool(system.children("two")))
        assert len(system.children("one")) + len(system.children("two")) == len(names), "each by one of them"

        before, orphans = {name: system.newest(name)[0] for name in names}, system.children("one")
        system.running["one"].kill()
        system.running["one"].wait()
        system.until(lambda: len(system.children("two")) == len(names), 20)
        assert not any(child.is_running() and child.status() != "zombie" for child in orphans)
        taken = system.until(lambda: sum(system.newest(name)[0] > before[name] for name in names) >= len(orphans), 20)
        assert taken < 20

        system.start("three")
        system.until(lambda: bool(system.children("three")))
        before = {name: system.newest(name)[0] for name in names}
        stopped = [system.running["two"], *system.children("two")]
        for process in stopped:
            process.send_signal(signal.SIGSTOP)
        system.until(lambda: len(system.children("three")) == len(names), 30)
        system.until(lambda: all(system.newest(name)[1] > 5 for name in names), 30)
        for process in stopped:
            process.send_signal(signal.SIGCONT)
        system.until(lambda: len(system.children("two")) + len(system.children("three")) == len(names), 30)
        for name in names:
            epochs = [m.record.epoch for m in system.frames(name)]
            assert epochs == sorted(epochs), "a fenced ingester writes nothing behind a higher epoch"
    finally:
        for camera in cameras:
            camera.stop()
