"""An import is built aside, renamed when whole, reused while unchanged, and never left half done."""

from __future__ import annotations

import errno
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from models.importers import import_model, recipe
from models.importers.package import Fetched, Progress
from models.importers.recipe import Recipe, run
from serving.errors import ConversionBusy, ImportFailed, NotFound, StorageFailed


class Builder:
    """Counts its builds; writes a checkpoint and one sample."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, packages: Mapping[str, Fetched], out: Path, progress: Progress) -> None:
        self.count += 1
        (out / "checkpoint.pth").write_bytes(b"weights")
        (out / "samples").mkdir()
        (out / "samples" / "labels.csv").write_text("file,label\n", "utf-8")


def quiet(_: str) -> None:
    pass


def plan(tmp_path: Path, build: recipe.Build) -> Recipe:
    code = tmp_path / "code.py"
    if not code.exists():
        code.write_text("1", "utf-8")
    return Recipe("tiny", (), (code,), build)


def test_second_import_builds_nothing(tmp_path: Path) -> None:
    build = Builder()
    first = run(plan(tmp_path, build), tmp_path / "cache", quiet)
    second = run(plan(tmp_path, build), tmp_path / "cache", quiet)
    assert first == second and build.count == 1
    assert first.labels == first.samples / "labels.csv" and first.constants is None


def test_changed_code_or_a_damaged_file_builds_again(tmp_path: Path) -> None:
    build = Builder()
    got = run(plan(tmp_path, build), tmp_path / "cache", quiet)
    (tmp_path / "code.py").write_text("2", "utf-8")
    run(plan(tmp_path, build), tmp_path / "cache", quiet)
    assert build.count == 2
    got.checkpoint.write_bytes(b"damaged")
    assert run(plan(tmp_path, build), tmp_path / "cache", quiet).checkpoint.read_bytes() == b"weights"
    assert build.count == 3


def test_a_failed_build_leaves_nothing_and_keeps_the_old(tmp_path: Path) -> None:
    run(plan(tmp_path, Builder()), tmp_path / "cache", quiet)
    (tmp_path / "code.py").write_text("2", "utf-8")

    def breaks(packages: Mapping[str, Fetched], out: Path, progress: Progress) -> None:
        (out / "checkpoint.pth").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device", str(out))

    with pytest.raises(StorageFailed, match="No space left"):
        run(plan(tmp_path, breaks), tmp_path / "cache", quiet)
    folder = tmp_path / "cache" / "models"
    assert sorted(p.name for p in folder.iterdir()) == ["tiny", "tiny.lock"]
    assert (folder / "tiny" / "checkpoint.pth").read_bytes() == b"weights"


def test_what_a_killed_import_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / "cache" / "models" / ".tiny.killed"
    left.mkdir(parents=True)
    run(plan(tmp_path, Builder()), tmp_path / "cache", quiet)
    assert not left.exists()


def test_two_at_once_build_once(tmp_path: Path) -> None:
    build = Builder()
    waiting, go = threading.Event(), threading.Event()

    def slow(packages: Mapping[str, Fetched], out: Path, progress: Progress) -> None:
        waiting.set()
        assert go.wait(20)
        build(packages, out, progress)

    first = threading.Thread(target=run, args=(plan(tmp_path, slow), tmp_path / "cache", quiet))
    first.start()
    assert waiting.wait(20)
    said: list[str] = []

    def tell(message: str) -> None:
        said.append(message)
        go.set()

    run(plan(tmp_path, build), tmp_path / "cache", tell)
    first.join(20)
    assert build.count == 1 and said == ["waiting for another import of tiny"]


def test_an_import_that_never_ends_is_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "WAIT_S", 0.0)
    caught: list[BaseException] = []

    def inner(packages: Mapping[str, Fetched], out: Path, progress: Progress) -> None:
        with pytest.raises(ConversionBusy) as busy:
            run(plan(tmp_path, Builder()), tmp_path / "cache", quiet)
        caught.append(busy.value)
        Builder()(packages, out, progress)

    run(plan(tmp_path, inner), tmp_path / "cache", quiet)
    assert caught


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"known: .*digits"):
        import_model("yolo99", tmp_path, quiet)
    with pytest.raises(ImportFailed, match="not in the manifest"):
        run(Recipe("tiny", ("no-such",), (), Builder()), tmp_path, quiet)
