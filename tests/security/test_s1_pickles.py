"""S1: a checkpoint that wants to run code, connect or lie about memory is refused before it does.

CVE-2025-32434 (legacy tar with weights_only) and CVE-2026-24747 (the weights_only unpickler) are among these. Every
file would write a marker or open a connection if it ran.
"""

from __future__ import annotations

import ast
import collections
import contextlib
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="skipped: torch: make setup")

import torch
from torch import nn

from converters.checkpoint import open_checkpoint
from converters.child import run_child
from converters.job import ChildJob
from serving.errors import CheckpointRefused, KeysMismatch
from serving.spec import ModelSpec

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


class Calls:
    """Pickles as a call of `function(*arguments)`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.function, self.arguments


class Whole(nn.Module):
    """A whole module pickled, which needs its class to run."""

    def __init__(self, trap: Calls) -> None:
        super().__init__()
        self.trap = trap


def _zip_of(value: Any, path: Path) -> None:
    torch.save(value, path)


def _legacy_pickle(value: Any, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


def _bare_pickle(value: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(value))


def _legacy_tar(value: Any, path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            data = pickle.dumps(value)
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def _rewritten(value: Any, path: Path, old: bytes, new: bytes) -> None:
    """A zip checkpoint whose pickle was edited by hand."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    with zipfile.ZipFile(buffer) as before, zipfile.ZipFile(path, "w") as after:
        for entry in before.infolist():
            data = before.read(entry)
            if entry.filename.endswith("data.pkl"):
                assert old in data
                data = data.replace(old, new)
            after.writestr(entry.filename, data)


def _setitem_on_a_number(path: Path) -> None:
    """SETITEM on something that is no dictionary (CVE-2026-24747)."""
    path.write_bytes(b"\x80\x02K\x01U\x01aK\x02s.")


def _stride_outside(path: Path) -> None:
    """A tensor whose view reaches past its storage: 4 numbers, shape 1000."""
    _rewritten({"a": torch.zeros(4)}, path, b"K\x04\x85", b"M\xe8\x03\x85")


STATE_DICTS: dict[str, Callable[[Path, str], None]] = {
    "os.system": lambda path, mark: _zip_of({"a": Calls(os.system, f"touch {mark}")}, path),
    "builtins.eval": lambda path, mark: _zip_of({"a": Calls(eval, f"open({mark!r}, 'w')")}, path),
    "builtins.exec": lambda path, mark: _zip_of({"a": Calls(exec, f"open({mark!r}, 'w')")}, path),
    "subprocess": lambda path, mark: _zip_of({"a": Calls(subprocess.check_call, ["touch", mark])}, path),
    "getattr chain": lambda path, mark: _zip_of({"a": Calls(getattr, Calls(__import__, "os"), "system")}, path),
    "torch.load": lambda path, mark: _zip_of({"a": Calls(torch.load, mark)}, path),
    "in an ordered dict": lambda path, mark: _zip_of(collections.OrderedDict(a=Calls(os.mkdir, mark)), path),
    "legacy file": lambda path, mark: _legacy_pickle({"a": Calls(os.system, f"touch {mark}")}, path),
    "legacy tar": lambda path, mark: _legacy_tar({"a": Calls(os.system, f"touch {mark}")}, path),
    "bare pickle": lambda path, mark: _bare_pickle({"a": Calls(os.system, f"touch {mark}")}, path),
    "old protocol": lambda path, mark: path.write_bytes(f"cposix\nsystem\n(S'touch {mark}'\ntR.".encode()),
    "whole module": lambda path, mark: _zip_of(Whole(Calls(os.system, f"touch {mark}")), path),
    "item of a number": lambda path, mark: _setitem_on_a_number(path),
    "stride outside": lambda path, mark: _stride_outside(path),
}


def _job(path: Path, folder: Path, format_: str = "state_dict") -> ChildJob:
    spec = ModelSpec.model_validate(
        {
            "name": "hostile",
            "task": "classification",
            "checkpoint": {"format": format_},
            "factory": {"callable": "torch.nn:Linear", "arguments": {"in_features": 2, "out_features": 2}},
            "preprocess": {"width": 8, "height": 8},
        }
    )
    return ChildJob("convert", spec, folder, folder, checkpoint=path)


@pytest.fixture
def connections() -> Callable[[], list[Any]]:
    """Connections that this thread tried since: others, such as the watch of a server under test, have their own."""
    tried: list[Any] = []
    active = [True]
    here = threading.get_ident()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if (
            active[0]
            and threading.get_ident() == here
            and event in ("socket.connect", "socket.getaddrinfo", "socket.sendto")
        ):
            tried.append(arguments)

    sys.addaudithook(hook)

    def stop() -> list[Any]:
        active[0] = False
        return tried

    return stop


@pytest.mark.parametrize("variant", STATE_DICTS)
def test_a_hostile_state_dict_is_refused(variant: str, tmp_path: Path, connections: Callable[[], list[Any]]) -> None:
    path, mark = tmp_path / "model.pt", tmp_path / "marker"
    STATE_DICTS[variant](path, str(mark))
    with pytest.raises(CheckpointRefused):
        open_checkpoint(_job(path, tmp_path))
    assert not mark.exists()
    assert connections() == []


def test_the_same_pickle_would_have_run(tmp_path: Path) -> None:
    """The control: an ordinary unpickle of such a file does what it says."""
    path, mark = tmp_path / "model.pkl", tmp_path / "marker"
    _bare_pickle({"a": Calls(os.mkdir, str(mark))}, path)
    pickle.loads(path.read_bytes())  # the file was written two lines above
    assert mark.exists()


def _exported(path: Path) -> None:
    program = torch.export.export(nn.Linear(2, 2).eval(), (torch.zeros(2, 2),))
    torch.export.save(program, path)


def _with_entry(path: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    """The archive with one entry changed, or added where no entry's name ends with `name`."""
    data = path.read_bytes()
    done = False
    with zipfile.ZipFile(io.BytesIO(data)) as before, zipfile.ZipFile(path, "w") as after:
        prefix = before.namelist()[0].split("/")[0]
        for entry in before.infolist():
            content = before.read(entry)
            if entry.filename.endswith(name):
                content, done = change(content), True
            after.writestr(entry.filename, content)
        if not done:
            after.writestr(f"{prefix}/{name}", change(b""))


def _opaque(path: Path, mark: str) -> None:
    trap = pickle.dumps(Calls(os.mkdir, mark))
    _with_entry(path, "data/constants/opaque_obj_0", lambda _: trap)

    def point_at_it(content: bytes) -> bytes:
        config = json.loads(content)
        config["config"]["trap"] = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True}
        config["config"]["trap"]["tensor_meta"] = None
        return json.dumps(config).encode()

    _with_entry(path, "model_constants_config.json", point_at_it)


def _pickled_weight(path: Path, mark: str) -> None:
    buffer = io.BytesIO()
    torch.save(Calls(os.mkdir, mark), buffer)

    def point_at_it(content: bytes) -> bytes:
        config = json.loads(content)
        first = next(iter(config["config"].values()))
        first.update(path_name="weight_trap", use_pickle=True)
        return json.dumps(config).encode()

    _with_entry(path, "data/weights/weight_trap", lambda _: buffer.getvalue())
    _with_entry(path, "model_weights_config.json", point_at_it)


def _expression(path: Path, mark: str) -> None:
    def change(content: bytes) -> bytes:
        tree = json.loads(content)
        tree["trap"] = {"as_expr": {"expr_str": f"__import__('os').mkdir({mark!r})"}}
        return json.dumps(tree).encode()

    _with_entry(path, "models/model.json", change)


PROGRAMS: dict[str, Callable[[Path, str], None]] = {
    "opaque object": _opaque,
    "pickled weight": _pickled_weight,
    "code as a shape": _expression,
    "custom object": lambda path, mark: _with_entry(path, "data/constants/custom_obj_0", lambda _: b"\x80\x02."),
    "compiled library": lambda path, mark: _with_entry(path, "data/aotinductor/model/m.so", lambda _: b"\x7fELF"),
}


@pytest.mark.parametrize("variant", PROGRAMS)
def test_a_hostile_exported_program_is_refused(
    variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, connections: Callable[[], list[Any]]
) -> None:
    # What run_child gives its child, without which torch.export.load unpickles weights in full.
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")
    path, mark = tmp_path / "model.pt2", tmp_path / "marker"
    _exported(path)
    open_checkpoint(_job(path, tmp_path, "torch_export"))
    PROGRAMS[variant](path, str(mark))
    with pytest.raises(CheckpointRefused):
        open_checkpoint(_job(path, tmp_path, "torch_export"))
    assert not mark.exists()
    assert connections() == []


@pytest.mark.parametrize("variant", ["opaque object", "pickled weight"])
def test_the_same_program_would_have_run(variant: str, tmp_path: Path) -> None:
    """The control: torch's own loader, without our look at the archive and the child's setting, runs it."""
    path, mark = tmp_path / "model.pt2", tmp_path / "marker"
    _exported(path)
    PROGRAMS[variant](path, str(mark))
    with contextlib.suppress(Exception):
        torch.export.load(path)
    assert mark.exists()


def test_bombs_and_mislabelled_archives(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.pt"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/constants.pkl", b"\0" * (300 << 20))
    with pytest.raises(CheckpointRefused, match="that become"):
        open_checkpoint(_job(bomb, tmp_path, "torchscript"))
    script = tmp_path / "script.pt"
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(script))
    for format_ in ("state_dict", "safetensors", "torch_export"):
        with pytest.raises((CheckpointRefused, KeysMismatch)):
            open_checkpoint(_job(script, tmp_path, format_))
    header = tmp_path / "h.safetensors"
    header.write_bytes((1 << 62).to_bytes(8, "little") + b"{}")
    with pytest.raises(CheckpointRefused):
        open_checkpoint(_job(header, tmp_path, "safetensors"))


def test_the_real_child_refuses_too(tmp_path: Path) -> None:
    path, mark = tmp_path / "model.pt", tmp_path / "marker"
    STATE_DICTS["os.system"](path, str(mark))
    job = replace(_job(path, tmp_path), folder=tmp_path / "job")
    with pytest.raises(CheckpointRefused, match=r"asks for posix\.system: refused before it ran"):
        run_child(job, progress=lambda line: None)
    assert not mark.exists()


def _calls_of(tree: ast.AST) -> set[str]:
    names = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return names & {"torch.load", "pickle.load", "pickle.loads", "torch.jit.load", "torch.export.load", "joblib.load"}


def test_nothing_else_unpickles() -> None:
    """No torch.load and no pickle outside the one module of the limited child; weights_only is given there."""
    found: dict[str, set[str]] = {}
    for package in ("serving", "converters", "evaluation", "models", "loadtest"):
        for path in sorted((ROOT / package).rglob("*.py")):
            tree = ast.parse(path.read_text("utf-8"))
            if calls := _calls_of(tree):
                found[str(path.relative_to(ROOT))] = calls
    assert found.pop("converters/checkpoint.py") == {"torch.load", "torch.jit.load", "torch.export.load"}
    loads = [
        node
        for node in ast.walk(ast.parse((ROOT / "converters/checkpoint.py").read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
    ]
    assert [any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in c.keywords) for c in loads] == [
        True
    ]
    assert found == {}
