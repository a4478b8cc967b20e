"""How an import becomes a folder: built aside, recorded by hash, renamed when whole, and reused while unchanged.

`<cache>/models/<name>/` holds `checkpoint.pth`, `samples/` (with `labels.csv`, `file,label`, where there are labels),
`constants.json` where the source package has post-processing constants, and `import.json`, the record.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from models.importers.manifest import Package, read_manifest
from models.importers.package import Fetched, Progress, fetch, sha256_of
from serving.errors import ConversionBusy, ImportFailed, StorageFailed

Build = Callable[[Mapping[str, Fetched], Path, Progress], None]
WAIT_S = 900.0


@dataclass(frozen=True, slots=True)
class ImportedModel:
    """What an importer brought. `labels` is a CSV `file,label` beside the samples; `constants` a JSON file."""

    name: str
    checkpoint: Path
    samples: Path
    labels: Path | None
    constants: Path | None


@dataclass(frozen=True, slots=True)
class Recipe:
    """One model's import. A change of any package entry or of a file in `code` makes a cached import stale."""

    name: str
    packages: tuple[str, ...]
    code: tuple[Path, ...]
    build: Build


def run(recipe: Recipe, cache: Path, progress: Progress) -> ImportedModel:
    """Import, or reuse what is there and unchanged.

    Raises ImportFailed, StorageFailed (disk full or not writable) and ConversionBusy (another import never ended).
    """
    cache = cache.resolve()
    manifest = read_manifest()
    absent = [name for name in recipe.packages if name not in manifest]
    if absent:
        raise ImportFailed(f"{recipe.name}: packages {absent} are not in the manifest")
    packages = [manifest[name] for name in recipe.packages]
    fingerprint = _fingerprint(recipe, packages)
    home = cache / "models" / recipe.name
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        with _locked(home.with_suffix(".lock"), recipe.name, progress):
            if not _is_current(home, fingerprint):
                _build(recipe, packages, fingerprint, home, cache, progress)
    except OSError as error:
        what = f"{recipe.name}: {error.filename or home}: {error.strerror or error}"
        raise StorageFailed(
            f"the import could not be written: {what}", hint="free space or choose another cache"
        ) from error
    return _imported(recipe.name, home)


def _build(
    recipe: Recipe, packages: list[Package], fingerprint: str, home: Path, cache: Path, progress: Progress
) -> None:
    fetched = {package.name: fetch(package, cache, progress) for package in packages}
    progress(f"building {recipe.name}")
    # The lock is held: whatever a killed import left behind is ours to remove.
    for left in home.parent.glob(f".{recipe.name}.*"):
        shutil.rmtree(left)
    temporary = Path(tempfile.mkdtemp(prefix=f".{recipe.name}.", dir=home.parent))
    try:
        recipe.build(fetched, temporary, progress)
        record = {"fingerprint": fingerprint, "files": _hashes(temporary)}
        (temporary / "import.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")
        shutil.rmtree(home, ignore_errors=True)
        temporary.rename(home)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _is_current(home: Path, fingerprint: str) -> bool:
    try:
        record = json.loads((home / "import.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return bool(record.get("fingerprint") == fingerprint and record.get("files") == _hashes(home))


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "import.json")
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}


def _fingerprint(recipe: Recipe, packages: list[Package]) -> str:
    told = hashlib.sha256(recipe.name.encode())
    for package in packages:
        told.update(json.dumps([package.name, package.version, sorted(package.files.items())]).encode())
    for path in recipe.code:
        told.update(path.read_bytes())
    return told.hexdigest()


@contextlib.contextmanager
def _locked(path: Path, name: str, progress: Progress) -> Iterator[None]:
    with path.open("w") as handle:
        deadline = time.monotonic() + WAIT_S
        told = False
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise ConversionBusy(f"{name}: another import has held {path} for {WAIT_S:.0f} s") from error
                if not told:
                    progress(f"waiting for another import of {name}")
                    told = True
                time.sleep(0.1)
        yield


def _imported(name: str, home: Path) -> ImportedModel:
    labels, constants = home / "samples" / "labels.csv", home / "constants.json"
    return ImportedModel(
        name=name,
        checkpoint=home / "checkpoint.pth",
        samples=home / "samples",
        labels=labels if labels.is_file() else None,
        constants=constants if constants.is_file() else None,
    )
