"""A version becomes visible in one step: written aside on the same disk, made durable, renamed last.

    <repository>/.locks/<model>.lock                one converter a model (flock: the kernel drops it when we die)
    <repository>/.staging/<model>/<model>/...       a whole model as Triton wants it, private until it is renamed
    <repository>/<model>/<version>/ , config.pbtxt  what is served

A model's first version is renamed with its folder. A further one is renamed as a folder first and named by
config.pbtxt last: until that second rename the old configuration serves the old version. A converter that dies between
the two leaves whole versions only, and the next one (`tidy`) finishes or removes what it left.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from serving.bundle import MANIFEST, read_certificate, sha256_of, verify_manifest, versions_of
from serving.errors import CertificateRefused, ConversionBusy, StorageFailed

STAGING, LOCKS, CONFIG = ".staging", ".locks", "config.pbtxt"
_NOT_LISTED = ("certificate.", "tuning.")


@contextlib.contextmanager
def storage(what: str) -> Iterator[None]:
    """Turn an operating system's refusal (disk full, quota, not writable) into StorageFailed."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        hint = "free space or choose another folder; nothing half-written stays"
        raise StorageFailed(f"{what}: {error.strerror or error}{where}", hint=hint) from error


@contextlib.contextmanager
def model_lock(repository: Path, model: str) -> Iterator[None]:
    """Hold the model for one converter. Raises ConversionBusy at once where another one holds it."""
    with storage(f"{repository}: the lock of {model}"):
        (repository / LOCKS).mkdir(parents=True, exist_ok=True)
        handle = (repository / LOCKS / f"{model}.lock").open("a")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConversionBusy(f"{model}: another converter is at work on it", hint="wait for it to end") from error
        tidy(repository, model)
        yield


def tidy(repository: Path, model: str) -> None:
    """With the lock held: remove what a killed converter left, and finish a publication that lacks its last step."""
    with storage(f"{repository}: cleaning up after an earlier converter"):
        shutil.rmtree(repository / STAGING / model, ignore_errors=True)
        (repository / model / f"{CONFIG}.new").unlink(missing_ok=True)
        for version_dir in versions_of(repository, model)[:1]:
            _name_version(version_dir)


def next_version(repository: Path, model: str, at_least: int = 1) -> int:
    """The first free version number, not below the spec's own."""
    newest = versions_of(repository, model)
    return max(at_least, int(newest[0].name) + 1 if newest else 1)


def published_as(repository: Path, model: str, content_sha256: str, target: str) -> Path | None:
    """The newest version where it was made from this very content, is certified for the target and unchanged."""
    for version_dir in versions_of(repository, model)[:1]:
        try:
            certificate, _ = read_certificate(version_dir, target)
            if certificate.get("content_sha256") != content_sha256 or certificate.get("verdict") != "passed":
                return None
            verify_manifest(version_dir, str(certificate.get("manifest_sha256")))
        except CertificateRefused:
            return None
        return version_dir
    return None


@contextlib.contextmanager
def staging(repository: Path, model: str, version: int) -> Iterator[Path]:
    """A new version's folder below a private repository. What is not published is gone afterwards."""
    home = repository / STAGING / model
    version_dir = home / model / str(version)
    try:
        with storage(f"{home}: staging"):
            version_dir.mkdir(parents=True)
        yield version_dir
    finally:
        shutil.rmtree(home, ignore_errors=True)


def write_file(path: Path, data: bytes) -> None:
    """Write and make durable. Raises StorageFailed; a partial file is removed."""
    with storage(f"{path.name} cannot be written"):
        try:
            with path.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            path.unlink(missing_ok=True)
            raise


def copy_file(source: Path, target: Path) -> None:
    """Copy and make durable. Raises StorageFailed; a partial file is removed."""
    with storage(f"{target.name} cannot be written"):
        try:
            with source.open("rb") as reading, target.open("wb") as file:
                shutil.copyfileobj(reading, file, 1 << 20)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            target.unlink(missing_ok=True)
            raise


def write_manifest(version_dir: Path) -> str:
    """manifest.json over every file of the version but certificates and tuning; returns its own SHA-256."""
    names = sorted(p.name for p in version_dir.iterdir() if p.is_file() and p.name != MANIFEST)
    files = {name: sha256_of(version_dir / name) for name in names if not name.startswith(_NOT_LISTED)}
    write_file(version_dir / MANIFEST, json.dumps({"files": files}, indent=1).encode() + b"\n")
    return sha256_of(version_dir / MANIFEST)


def publish(staged: Path, repository: Path, target: str = "cpu") -> Path:
    """Rename a staged, certified version into the repository. Returns its folder there.

    Raises CertificateRefused where the certificate did not pass or does not fit the files, StorageFailed.
    """
    certificate, _ = read_certificate(staged, target)
    if certificate.get("verdict") != "passed":
        raise CertificateRefused(f"{staged.parent.name}: the certificate says {certificate.get('verdict')!r}")
    verify_manifest(staged, str(certificate.get("manifest_sha256")))
    model_dir, home = staged.parent, repository / staged.parent.name
    final = home / staged.name
    with storage(f"{final}: publishing"):
        for folder in (p for p in staged.iterdir() if p.is_dir()):  # what the staging server's Python cached
            shutil.rmtree(folder)
        _sync_tree(staged)
        if not home.exists():
            copy_file(staged / CONFIG, model_dir / CONFIG)
            _sync_folder(model_dir)
            model_dir.rename(home)
            _sync_folder(repository)
            return final
        staged.rename(final)
        _sync_folder(home)
        _name_version(final)
    return final


def add_certificate(version_dir: Path, target: str, certificate: bytes, html: bytes) -> None:
    """Place a new certificate beside a published version by rename; the old one is replaced as a whole."""
    for suffix, data in (("html", html), ("json", certificate)):
        path = version_dir / f"certificate.{target}.{suffix}"
        fresh = path.with_name(path.name + ".new")
        write_file(fresh, data)
        with storage(f"{path.name}: publishing"):
            fresh.replace(path)
    _sync_folder(version_dir)


def _name_version(version_dir: Path) -> None:
    """Make the model's config.pbtxt the one that the version carries, by rename."""
    source, target = version_dir / CONFIG, version_dir.parent / CONFIG
    if not source.is_file() or (target.is_file() and target.read_bytes() == source.read_bytes()):
        return
    fresh = target.with_name(f"{CONFIG}.new")
    copy_file(source, fresh)
    fresh.replace(target)
    _sync_folder(target.parent)


def _sync_tree(folder: Path) -> None:
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
