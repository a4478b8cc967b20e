"""Named files out of public packages, hash-checked and cached; a second call reads no network.

Layout: `<cache>/packages/<name>-<version>/<path inside the package>`. A package arrives in a temporary folder beside
it and is renamed when all its files are proven, so a killed download leaves nothing that looks whole.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from models.importers.clients import TAMPERED, Clients
from models.importers.manifest import Package
from serving.errors import ImportFailed

Progress = Callable[[str], None]
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Fetched:
    """A package's proven files on this disk."""

    package: Package
    folder: Path

    def path(self, name: str) -> Path:
        """Where the manifest's file `name` is. Raises ImportFailed for a name that the manifest lacks."""
        if name not in self.package.files:
            raise ImportFailed(f"package {self.package.name}: {name} is not in the manifest")
        return self.folder / name


def fetch(package: Package, cache: Path, progress: Progress, clients: Clients | None = None) -> Fetched:
    """The files of `package`, from the cache when they are there and unchanged.

    Raises ImportFailed: client missing, offline, a file absent, or a SHA-256 other than the manifest's.
    """
    if package.source == "installed":
        return _installed(package)
    cache = cache.resolve()
    home = cache / "packages" / f"{package.name.replace('/', '__')}-{package.version}"
    if _first_wrong(package, home) is None:
        return Fetched(package, home)
    home.parent.mkdir(parents=True, exist_ok=True)
    progress(f"downloading {package.name} {package.version} ({package.source}, {package.licence})")
    with tempfile.TemporaryDirectory(prefix=f".{home.name}.", dir=home.parent) as temporary:
        arrived, ready = Path(temporary) / "archive", Path(temporary) / "files"
        arrived.mkdir()
        ready.mkdir()
        used = clients or Clients.found()
        archive = used.download(package, arrived)
        _check_archive(package, archive)
        _extract(package, archive, ready, used)
        wrong = _first_wrong(package, ready)
        if wrong is not None:
            raise ImportFailed(f"package {package.name} {package.version}: {wrong}", hint=TAMPERED)
        shutil.rmtree(home, ignore_errors=True)
        ready.rename(home)
    return Fetched(package, home)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _first_wrong(package: Package, folder: Path) -> str | None:
    for name, expected in package.files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is not in the package"
        got = sha256_of(path)
        if got != expected:
            return f"{name}: SHA-256 expected {expected}, got {got}"
    return None


def _installed(package: Package) -> Fetched:
    try:
        distribution = importlib.metadata.distribution(package.name)
    except importlib.metadata.PackageNotFoundError as error:
        raise ImportFailed(f"package {package.name} is not installed", hint="make setup") from error
    folder = Path(str(distribution.locate_file(package.prefix)))
    wrong = _first_wrong(package, folder)
    if wrong is not None:
        here = f"package {package.name}: installed {distribution.version}, proven with {package.version}"
        raise ImportFailed(f"{here}: {wrong}", hint=f"install {package.name}=={package.version}")
    return Fetched(package, folder)


def _check_archive(package: Package, archive: Path) -> None:
    if not package.archive_sha256:
        return
    got = sha256_of(archive)
    if got != package.archive_sha256:
        what = f"package {package.name} {package.version}: {archive.name}"
        raise ImportFailed(f"{what}: SHA-256 expected {package.archive_sha256}, got {got}", hint=TAMPERED)


def _extract(package: Package, archive: Path, out: Path, clients: Clients) -> None:
    """Only the manifest's files, by exact name; nothing else of the archive touches the disk."""
    wanted = {package.prefix + name: name for name in package.files}
    try:
        for member, stream in _members(archive, clients):
            name = wanted.get(member)
            if name is None:
                continue
            target = out / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as sink:
                shutil.copyfileobj(stream, sink, _CHUNK)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise ImportFailed(f"package {package.name}: {archive.name} is not a readable archive: {error}") from error


def _members(archive: Path, clients: Clients) -> Iterator[tuple[str, IO[bytes]]]:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as whole:
            for info in whole.infolist():
                with whole.open(info) as stream:
                    yield info.filename, stream
    elif archive.suffix == ".deb":
        yield from _deb_members(archive, clients)
    else:
        with tarfile.open(archive, "r:gz") as whole_tar:
            yield from _tar_members(whole_tar)


def _deb_members(archive: Path, clients: Clients) -> Iterator[tuple[str, IO[bytes]]]:
    if not clients.dpkg_deb:
        raise ImportFailed(f"{archive.name} needs `dpkg-deb`, which is not here", hint="use a Debian-like system")
    command = [*clients.dpkg_deb, "--fsys-tarfile", str(archive)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as unpacker:
        assert unpacker.stdout is not None
        with tarfile.open(fileobj=unpacker.stdout, mode="r|") as whole:
            yield from _tar_members(whole)


def _tar_members(whole: tarfile.TarFile) -> Iterator[tuple[str, IO[bytes]]]:
    for member in whole:
        stream = whole.extractfile(member) if member.isreg() else None
        if stream is not None:
            yield member.name.removeprefix("./"), stream
