"""Rules that a reader may rely on, checked from the source: who imports what, who reads the environment, sizes."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("serving", "converters", "models", "evaluation", "loadtest", "tools")
SHARED_NAMES = ("__init__.py", "conftest.py")
RUNTIME_OF = {
    "openvino": "serving/engines/openvino.py",
    "onnxruntime": "serving/engines/onnxruntime.py",
    "tritonclient": "serving/adapters/triton",
    "av": "serving/adapters/video",
    "trackers": "serving/adapters/trackers",
    "confluent_kafka": "serving/adapters/kafka",
    "redis": "serving/adapters/redis",
}


def sources(*folders: str) -> Iterator[tuple[str, ast.Module]]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield str(path.relative_to(ROOT)), ast.parse(path.read_text("utf-8"))


def imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("runtime", sorted(RUNTIME_OF))
def test_only_its_adapter_imports_a_runtime(runtime: str) -> None:
    users = {name for name, tree in sources("serving") if any(m.split(".")[0] == runtime for m in imports(tree))}
    assert users, f"nobody imports {runtime}: this rule checks nothing"
    assert {u for u in users if not u.startswith(RUNTIME_OF[runtime])} == set()


def test_the_environment_is_read_in_config_only() -> None:
    users = {
        n for n, tree in sources("serving") for node in ast.walk(tree) if _is_attribute(node, "os", "environ", "getenv")
    }
    assert users == {"serving/config.py"}


def test_metric_objects_are_made_in_metrics_only() -> None:
    users = {n for n, tree in sources("serving") if any(m.startswith("prometheus_client") for m in imports(tree))}
    assert users == {"serving/metrics.py"}


def test_torch_load_is_called_in_the_converters_child_only() -> None:
    users = {n for n, tree in sources("serving", "converters", "models") for node in ast.walk(tree)
             if _is_attribute(node, "torch", "load") or _is_attribute(node, "jit", "load")}  # fmt: skip
    assert users and all(u.startswith("converters/") or u.startswith("models/train/") for u in users), users


def _is_attribute(node: ast.AST, owner: str, *names: str) -> bool:
    if not isinstance(node, ast.Attribute) or node.attr not in names:
        return False
    value = node.value
    return (isinstance(value, ast.Name) and value.id == owner) or (
        isinstance(value, ast.Attribute) and value.attr == owner
    )


def test_files_and_functions_stay_small() -> None:
    long: list[str] = []
    for name, tree in sources(*PACKAGES):
        lines = (ROOT / name).read_text("utf-8").count("\n")
        if lines > 400:
            long.append(f"{name}: {lines} lines (400 at most)")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                doc = ast.get_docstring(node, clean=False)
                size = (node.end_lineno or 0) - node.lineno + 1 - (doc.count("\n") + 1 if doc else 0)
                if size > 60:
                    long.append(f"{name}:{node.lineno} {node.name}: {size} lines (60 at most)")
    assert long == []


def test_modules_of_tests_have_names_of_their_own() -> None:
    """pytest imports them by name alone: two of one name end its collection, each by itself runs."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("*.py") if path.name not in SHARED_NAMES)
    assert [name for name, count in names.items() if count > 1] == [] and len(names) > 200


def test_no_exception_is_swallowed_in_silence() -> None:
    silent = [
        f"{name}:{node.lineno}"
        for name, tree in sources(*PACKAGES)
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and len(node.body) == 1 and isinstance(node.body[0], ast.Pass)
    ]
    assert silent == []


def test_every_public_thing_of_the_base_has_a_docstring() -> None:
    base = ("types", "spec", "errors", "config", "metrics", "clock", "frames", "bundle", "served_model")
    bare = [
        f"{name}:{node.name}"
        for name, tree in sources("serving")
        if Path(name).stem in base and "/" not in name.removeprefix("serving/")
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert bare == []


def test_nothing_names_a_registry_or_a_path_of_a_machine() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    pattern = re.compile(
        "|".join(
            (r"(?<![\w.])/(work|farm|root)" + "/", "files.python" + "hosted", "pypi" + r"\.org", "npmjs" + r"\.org")
        )
    )
    guilty = []
    for name in tracked:
        path = ROOT / name
        if (
            path.is_file()
            and path.stat().st_size < 1_000_000
            and path.suffix in {".py", ".md", ".yaml", ".toml", ".lock", ".sh", ""}
        ):
            text = path.read_text("utf-8", errors="ignore")
            guilty += [f"{name}: {match.group()}" for match in pattern.finditer(text)]
    assert guilty == []


BARE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "onnx", "tensorrt_rtx", "sklearn", "skimage", "converters", "models"}:
            raise ImportError(f"a running process may not import {name}")
sys.meta_path.insert(0, Refuse())
import serving.served_model, serving.tasks, serving.engines, serving.gateway.app, serving.gateway.main
import serving.tasks.classification, serving.tasks.detection, serving.tasks.embedding, serving.tasks.raw
import serving.streams.run, serving.align, serving.cli
print("imported", "torch" in sys.modules)
"""


def test_gateway_and_streams_import_without_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BARE], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.strip() == "imported False", done.stderr[-2000:]
