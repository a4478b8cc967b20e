"""The private folder of one embedded Triton: a backend directory with the right stub, and a view of the repository.

The wheel is never altered and the repository is only read: models appear by link, with a config.pbtxt of this run's own
(the chosen version, the tuned number of instances, a generation that grows with each reload).
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil

from serving.errors import CertificateRefused, StorageFailed
from serving.triton.home import TritonHome
from serving.triton.process import remove_shared_memory
from serving.tuning import Tuning, read_tuning

CONFIG = "config.pbtxt"
_PREFIX = "triton-"
_SHM_PREFIX = "lockstep_"
# Folders of a run, and those that `tune` makes its copies in.
_RUN = re.compile(r"^(?:triton|tune)-(\d+)-[0-9a-f]+$")


@dataclass(frozen=True, slots=True)
class Runtime:
    """`<folder>/backends` and `<folder>/repository`; `shm_prefix` begins the names of this run's shared memory."""

    folder: Path
    shm_prefix: str

    @property
    def backends(self) -> Path:
        """Triton's --backend-directory."""
        return self.folder / "backends"

    @property
    def repository(self) -> Path:
        """Triton's --model-repository."""
        return self.folder / "repository"

    @classmethod
    def create(cls, parent: Path, home: TritonHome) -> Runtime:
        """A fresh folder below `parent`; what runs that were killed left behind is removed first.

        Raises StorageFailed, or Unavailable where Triton is not installed.
        """
        home.check()
        reap(parent)
        word = secrets.token_hex(4)
        runtime = cls(parent / f"{_PREFIX}{os.getpid()}-{word}", f"{_SHM_PREFIX}{os.getpid()}_{word}_")
        try:
            python = runtime.backends / "python"
            python.mkdir(parents=True)
            runtime.repository.mkdir()
            for path in home.python_backend.iterdir():
                (python / path.name).symlink_to(path.resolve())
            stub = python / home.stub.name
            shutil.copyfile(home.stub, stub)
            stub.chmod(0o755)
        except OSError as error:
            raise StorageFailed(
                f"{runtime.folder}: {error.strerror}", hint="set cache_dir to a writable folder"
            ) from error
        return runtime

    def add_model(self, name: str, version_dir: Path, patient: bool = False) -> Tuning | None:
        """Show one version of a model to Triton; its tuning, where it has one. Raises CertificateRefused.

        patient: nothing times out in the queue. The certificate compares answers; how slow this machine is just then
        is no part of it.
        """
        tuning = read_tuning(version_dir)
        source = version_dir.parent / CONFIG
        if not source.is_file():
            raise CertificateRefused(f"{source}: missing", hint="convert the model again")
        text = with_version(source.read_text("utf-8"), int(version_dir.name))
        if tuning is not None:
            text = with_tuning(text, tuning)
        if patient:
            text = re.sub(r"(default_timeout_microseconds: )\d+", r"\g<1>0", text)
        folder = self.repository / name
        shown = folder / version_dir.name
        shown.mkdir(parents=True)
        for path in version_dir.resolve().iterdir():
            if path.is_file():  # one link a file: bytecode is neither read from the repository nor written into it
                (shown / path.name).symlink_to(path)
        (folder / CONFIG).write_text(text, "utf-8")
        return tuning

    def next_generation(self, name: str, generation: int) -> None:
        """Change the model's configuration, so that Triton's `load` makes new instances and swaps them in.

        `unload` and `load` would do too, but between the two the model is 'not found' to its callers.
        """
        path = self.repository / name / CONFIG
        text = re.sub(r'\nparameters \{ key: "generation".*', "", path.read_text("utf-8"))
        path.write_text(
            f'{text.rstrip()}\nparameters {{ key: "generation" value {{ string_value: "{generation}" }} }}\n', "utf-8"
        )

    def remove(self) -> None:
        """The folder and the shared memory go."""
        shutil.rmtree(self.folder, ignore_errors=True)
        remove_shared_memory(self.shm_prefix)


def with_version(text: str, version: int) -> str:
    """The configuration with `version` as the one that is served."""
    return re.sub(r"versions: \[[\d, ]*\]", f"versions: [{version}]", text)


def with_tuning(text: str, tuning: Tuning) -> str:
    """The configuration with the tuned number of instances, and no batch (served or warm-up) larger than tuned."""
    text = re.sub(r"(?m)^( *count: )\d+$", rf"\g<1>{tuning.instances}", text)
    return re.sub(
        r"(?m)^( *(?:max_batch_size|batch_size): )(\d+)$",
        lambda m: f"{m[1]}{min(int(m[2]), tuning.max_batch)}",
        text,
    )


def instances_of(text: str) -> int:
    """Instances that a configuration asks for; Triton's default is 1."""
    counts = re.findall(r"(?m)^ *count: (\d+)$", text)
    return sum(map(int, counts)) or 1


def reap(parent: Path) -> list[Path]:
    """Remove folders and shared memory of runs whose process is gone; the folders."""
    gone = []
    for folder in parent.iterdir() if parent.is_dir() else ():
        named = _RUN.match(folder.name)
        pid = named[1] if named else ""
        if pid and not psutil.pid_exists(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)
            remove_shared_memory(f"{_SHM_PREFIX}{pid}_")
            gone.append(folder)
    return gone
