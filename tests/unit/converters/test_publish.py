"""A version is there as a whole or not at all: locks, full disks, kills, numbers."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from converters import publish as publishing
from converters.publish import (
    CONFIG,
    LOCKS,
    STAGING,
    add_certificate,
    model_lock,
    next_version,
    publish,
    published_as,
    staging,
    storage,
    write_file,
    write_manifest,
)
from serving.bundle import read_certificate, verify_manifest
from serving.errors import CertificateRefused, ConversionBusy, StorageFailed

ROOT = Path(__file__).resolve().parents[3]


def _stage(folder: Path, content: str = "c1", verdict: str = "passed", target: str = "cpu") -> None:
    write_file(folder / "spec.json", b"{}")
    write_file(folder / "engine.bin", b"weights" * 1000)
    write_file(folder / CONFIG, f'name: "m" # version {folder.name}\n'.encode())
    digest = write_manifest(folder)
    document = {"verdict": verdict, "manifest_sha256": digest, "content_sha256": content, "rows": []}
    write_file(folder / f"certificate.{target}.json", json.dumps(document).encode())


def _publish(repository: Path, content: str = "c1") -> Path:
    with model_lock(repository, "m"), staging(repository, "m", next_version(repository, "m")) as staged:
        _stage(staged, content)
        return publish(staged, repository)


def _visible(repository: Path) -> list[str]:
    """Everything but the lock files."""
    return sorted(str(p.relative_to(repository)) for p in repository.rglob("*") if p.is_file() and LOCKS not in p.parts)


def test_versions_count_up_and_the_config_names_the_newest(tmp_path: Path) -> None:
    first, second = _publish(tmp_path, "c1"), _publish(tmp_path, "c2")
    assert (first.name, second.name) == ("1", "2")
    assert "version 2" in (tmp_path / "m" / CONFIG).read_text()
    for folder in (first, second):
        verify_manifest(folder, read_certificate(folder)[0]["manifest_sha256"])
    assert not list((tmp_path / STAGING).iterdir())
    assert next_version(tmp_path, "m") == 3 and next_version(tmp_path, "other", 4) == 4


def test_the_same_content_is_found_again_unless_a_file_changed(tmp_path: Path) -> None:
    folder = _publish(tmp_path, "c1")
    assert published_as(tmp_path, "m", "c1", "cpu") == folder
    assert published_as(tmp_path, "m", "c2", "cpu") is None
    assert published_as(tmp_path, "m", "c1", "gpu") is None
    (folder / "engine.bin").write_bytes(b"other")
    assert published_as(tmp_path, "m", "c1", "cpu") is None


@pytest.mark.parametrize("verdict", ["failed", ""])
def test_what_did_not_pass_is_never_published(tmp_path: Path, verdict: str) -> None:
    with model_lock(tmp_path, "m"), staging(tmp_path, "m", 1) as staged:
        _stage(staged, verdict=verdict)
        with pytest.raises(CertificateRefused):
            publish(staged, tmp_path)
    assert _visible(tmp_path) == []


def test_a_file_changed_after_the_certificate_is_never_published(tmp_path: Path) -> None:
    with model_lock(tmp_path, "m"), staging(tmp_path, "m", 1) as staged:
        _stage(staged)
        (staged / "engine.bin").write_bytes(b"patched")
        with pytest.raises(CertificateRefused, match=r"engine\.bin"):
            publish(staged, tmp_path)
    assert _visible(tmp_path) == []


def test_two_converters_at_once_one_is_told_at_once(tmp_path: Path) -> None:
    with model_lock(tmp_path, "m"):
        started = time.monotonic()
        with pytest.raises(ConversionBusy, match="another converter"), model_lock(tmp_path, "m"):
            pass
        assert time.monotonic() - started < 1
        with model_lock(tmp_path, "other"):
            pass
    with model_lock(tmp_path, "m"):
        pass


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _publish(tmp_path, "c1")
    before = _visible(tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    real = os.fsync
    for step in range(1, 8):
        calls = iter(range(1, 1000))

        def sync(descriptor: int, step: int = step, calls: Iterator[int] = calls) -> None:
            full(descriptor) if next(calls) == step else real(descriptor)

        monkeypatch.setattr(publishing.os, "fsync", sync)
        with pytest.raises(StorageFailed, match="No space left") as caught:
            _publish(tmp_path, "c2")
        assert caught.value.retryable
        monkeypatch.setattr(publishing.os, "fsync", real)
        assert _visible(tmp_path) == before, f"fsync {step}"
    assert _publish(tmp_path, "c2").name == "2"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 200 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)], capture_output=True)
    if mount.returncode:
        pytest.skip("skipped: tmpfs: needs the right to mount; the same is tried with a failing fsync")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_really_full_file_system_is_a_clear_error(small_disk: Path) -> None:
    _publish(small_disk, "c1")
    before = _visible(small_disk)
    full = pytest.raises(StorageFailed, match="No space left")
    with full, model_lock(small_disk, "m"), staging(small_disk, "m", 2) as staged:
        _stage(staged, "c2")
        write_file(staged / "big.bin", b"x" * 400_000)
    assert _visible(small_disk) == before
    assert _publish(small_disk, "c2").name == "2"


KILLED = """
import sys, time
sys.path[:0] = [{root!r}]
from pathlib import Path
import tests.unit.converters.test_publish as t
import converters.publish as p
repository, moment = Path(sys.argv[1]), sys.argv[2]
real = Path.rename
def stop(self, target):
    name = "version" if self.name.isdigit() else "model"
    answer = None if moment == "before" else real(self, target)
    print("at the rename", flush=True)
    time.sleep(60)
    return answer
Path.rename = stop
t._publish(repository, "c2")
"""


def _kill_at_the_rename(repository: Path, moment: str) -> None:
    code = KILLED.format(root=str(ROOT))
    command = [sys.executable, "-c", code, str(repository), moment]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "at the rename\n"
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("earlier", [0, 1])
def test_a_killed_converter_leaves_whole_versions_and_the_next_one_tidies(
    tmp_path: Path, moment: str, earlier: int
) -> None:
    for _ in range(earlier):
        _publish(tmp_path, "c1")
    _kill_at_the_rename(tmp_path, moment)
    for folder in (p for p in (tmp_path / "m").glob("[0-9]*")):
        verify_manifest(folder, read_certificate(folder)[0]["manifest_sha256"])
    with model_lock(tmp_path, "m"):
        assert not (tmp_path / STAGING / "m").exists()
        newest = max((tmp_path / "m").glob("[0-9]*"), default=None)
        expected = str(earlier + 1) if moment == "after" else str(earlier) if earlier else None
        assert (newest.name if newest else None) == expected
        if newest:
            assert (tmp_path / "m" / CONFIG).read_bytes() == (newest / CONFIG).read_bytes()
    assert int(_publish(tmp_path, "c3").name) == earlier + (2 if moment == "after" else 1)


def test_a_certificate_added_later_is_replaced_as_a_whole(tmp_path: Path) -> None:
    folder = _publish(tmp_path)
    add_certificate(folder, "gpu", b'{"verdict": "passed"}', b"<html>")
    assert read_certificate(folder, "gpu")[0]["verdict"] == "passed"
    verify_manifest(folder, read_certificate(folder)[0]["manifest_sha256"])
    assert not list(folder.glob("*.new"))


def test_a_folder_that_is_not_writable_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailed, match="Not a directory"), model_lock(tmp_path / "file" / "repository", "m"):
        pass
    with pytest.raises(StorageFailed, match="what: "), storage("what"):
        raise OSError(errno.EROFS, "Read-only file system")
