"""Download one archive with a package registry's ordinary client: pip, npm or apt-get. By name and version only."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.importers.manifest import Package
from serving.errors import ImportFailed

TIMEOUT_S = 600
_ADDRESS = re.compile(r"\b[a-z][a-z0-9+.-]*://\S+|(?<=host=)'[^']*'")
_OFFLINE = re.compile(
    r"(?i)(connection ?(error|refused|broken)|network is unreachable|temporary failure|name or service not known"
    r"|could not resolve|failed to establish|timed? ?out|enotfound|econnrefused|eai_again|etimedout"
    r"|proxy ?error|unable to connect)"
)


@dataclass(frozen=True, slots=True)
class Clients:
    """Command lines of the clients on this machine; an empty one is missing."""

    pip: tuple[str, ...] = ()
    npm: tuple[str, ...] = ()
    apt_get: tuple[str, ...] = ()
    dpkg_deb: tuple[str, ...] = ()

    @classmethod
    def found(cls) -> Clients:
        """Look for them. A virtual environment may lack pip, so its base interpreter and PATH are tried too."""
        return cls(pip=_find_pip(), npm=_on_path("npm"), apt_get=_on_path("apt-get"), dpkg_deb=_on_path("dpkg-deb"))

    def download(self, package: Package, folder: Path) -> Path:
        """The archive of `package`, put into the empty `folder`. Raises ImportFailed (retryable) with the next step."""
        if package.source == "npm":
            self._npm(package, folder)
        elif package.source == "debian":
            self._apt(package, folder)
        else:
            self._pip(package, folder)
        archives = [path for path in folder.iterdir() if path.suffix in (".whl", ".gz", ".tgz", ".zip", ".deb")]
        if len(archives) != 1:
            raise ImportFailed(f"package {package.name} {package.version}: expected one archive, got {len(archives)}")
        return archives[0]

    def _pip(self, package: Package, folder: Path) -> None:
        client = _need(self.pip, "pip", package, "python -m ensurepip, or install python3-pip")
        # The hash goes to pip, which refuses before it would run a source archive's build code.
        wanted = folder / "wanted.txt"
        wanted.write_text(f"{package.name}=={package.version} --hash=sha256:{package.archive_sha256}\n", "utf-8")
        kind = ["--only-binary", ":all:"] if package.source == "pypi" else ["--no-binary", ":all:"]
        quiet = ["-q", "--disable-pip-version-check", "--no-input", "--retries", "2", "--timeout", "20"]
        command = [*client, "download", *quiet, "--no-deps", "--require-hashes", *kind, "-d", str(folder)]
        _checked([*command, "-r", str(wanted)], package, folder)
        wanted.unlink()

    def _npm(self, package: Package, folder: Path) -> None:
        client = _need(self.npm, "npm", package, "install Node.js with npm")
        limits = ["--fetch-retries", "1", "--fetch-timeout", "60000", "--ignore-scripts"]
        _checked(
            [*client, "pack", "--loglevel", "error", *limits, f"{package.name}@{package.version}"], package, folder
        )

    def _apt(self, package: Package, folder: Path) -> None:
        client = _need(self.apt_get, "apt-get", package, "this file is in a Debian package: use a Debian-like system")
        limits = ["-q", "-o", "Acquire::Retries=2", "-o", "Acquire::http::Timeout=20"]
        exact = f"{package.name}={package.version}"
        # The machine's own lists first. Then lists in this folder, which needs no root and changes no system state.
        (folder / "lists" / "partial").mkdir(parents=True)
        own = ["-o", f"Dir::State::Lists={folder / 'lists'}", "-o", f"Dir::Cache={folder}"]
        attempts = [[*limits, "download", exact], [*limits, *own, "update"], [*limits, *own, "download", exact]]
        # Another release may carry the same files in another version; their hashes decide.
        attempts.append([*limits, *own, "download", package.name])
        said = ""
        for arguments in attempts:
            said += _run([*client, *arguments], package, folder)[1]
            if any(path.suffix == ".deb" for path in folder.iterdir()):
                return
        raise _failure(package, said)


def _find_pip() -> tuple[str, ...]:
    interpreters = [sys.executable, str(Path(sys.base_prefix) / "bin" / "python3"), shutil.which("python3") or ""]
    for interpreter in dict.fromkeys(filter(None, interpreters)):
        if Path(interpreter).is_file() and _answers([interpreter, "-m", "pip", "--version"]):
            return (interpreter, "-m", "pip")
    return _on_path("pip")


def _answers(command: Sequence[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _on_path(name: str) -> tuple[str, ...]:
    found = shutil.which(name)
    return (found,) if found else ()


def _need(client: tuple[str, ...], name: str, package: Package, how: str) -> tuple[str, ...]:
    if not client:
        raise ImportFailed(f"package {package.name} {package.version} needs `{name}`, which is not here", hint=how)
    return client


def _checked(command: Sequence[str], package: Package, folder: Path) -> None:
    code, said = _run(command, package, folder)
    if code:
        raise _failure(package, said)


def _run(command: Sequence[str], package: Package, folder: Path) -> tuple[int, str]:
    """Exit status, and what the client said."""
    what = f"package {package.name} {package.version}"
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ImportFailed(f"{what}: {command[0]} did not finish within {TIMEOUT_S} s", hint="try again") from error
    except OSError as error:
        raise ImportFailed(f"{what}: {command[0]} cannot be started: {error.strerror}") from error
    return done.returncode, done.stderr + done.stdout


def _failure(package: Package, output: str) -> ImportFailed:
    what = f"package {package.name} {package.version}"
    got = re.search(r"(?m)^\s*Got\s+([0-9a-f]{64})", output)
    if got:
        return ImportFailed(f"{what}: SHA-256 expected {package.archive_sha256}, got {got.group(1)}", hint=TAMPERED)
    tail = " | ".join(_last(_ADDRESS.sub("(address)", output).splitlines(), 3)) or "no output"
    if _OFFLINE.search(output):
        return ImportFailed(f"{what} cannot be reached: {tail}", hint="check the network or the client's own settings")
    return ImportFailed(f"{what} could not be downloaded: {tail}", hint="run the client by hand to see more")


TAMPERED = "the package is not the one this project was proven with; do not use it"


def _last(lines: Iterable[str], count: int) -> list[str]:
    return [" ".join(line.split())[:300] for line in lines if line.strip()][-count:]
