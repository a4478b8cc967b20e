"""What `lockstep-triton`, the command of the image for Triton, starts: the models that may be served, by name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from triton_support import ROOT, adder_model, colours_model, redness_model, settings_for

from converters.config_ensemble import write_ensemble
from serving.bundle import ModelBundle
from serving.config import child_environment
from serving.triton.ask import ask_canaries
from serving.triton.home import Ports, TritonHome, environment
from serving.triton.logs import log
from serving.triton.process import TritonProcess
from serving.triton.runtime import Runtime

SCRIPT = ROOT / "deploy" / "containers" / "triton.sh"
LOCKSTEP = f'#!/bin/sh\nexec {sys.executable} -c "from serving.cli import main; main()" "$@"\n'
TELLS = "#!/bin/sh\nprintf '%s\\n' \"$@\"\n"


def program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


def where(folder: Path, repository: Path, base: Mapping[str, str]) -> dict[str, str]:
    """The environment of the image: `lockstep` of this checkout, then what `folder` has, first on the path."""
    program(folder, "lockstep", LOCKSTEP)
    path = os.pathsep.join([str(folder), base.get("PATH", "")])
    return {**base, "PATH": path, "PYTHONPATH": str(ROOT), "LOCKSTEP_REPOSITORY": str(repository)}


def started(folder: Path, repository: Path, *options: str) -> tuple[int, list[str], str]:
    """Exit status, the arguments of `tritonserver`, and what was said."""
    program(folder, "tritonserver", TELLS)
    command, env = ["sh", str(SCRIPT), *options], where(folder, repository, child_environment())
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout.splitlines(), done.stderr


def converted(repository: Path) -> None:
    """A repository as conversions leave it: their folders, a model, and one that was changed since."""
    for name in (".locks", ".staging"):
        (repository / name).mkdir(parents=True)
    colours_model(repository)
    changed = redness_model(repository) / "model.onnx"
    changed.write_bytes(changed.read_bytes() + b"x")


def test_only_what_may_be_served_is_loaded(tmp_path: Path) -> None:
    converted(tmp_path / "models")
    code, words, said = started(tmp_path / "bin", tmp_path / "models", "--log-verbose=1")
    assert code == 0, said
    assert "--model-control-mode=explicit" in words and f"--model-repository={tmp_path / 'models'}" in words
    assert [word for word in words if "load-model" in word] == ["--load-model=colours"]
    assert words[-1] == "--log-verbose=1", "what is given comes last, so it counts"
    assert "not loaded: redness: " in said and "model.onnx" in said
    again = started(tmp_path / "bin", tmp_path / "models")[1]
    keys = {word for line in (words, again) for word in line if word.startswith("--grpc-restricted-protocol=")}
    assert len(keys) == 2 and all("model-repository," in word for word in keys), "nobody has the key of the load API"


def test_of_the_gpus_repository_what_has_its_certificate_and_its_ensemble(tmp_path: Path) -> None:
    repository, gpu = tmp_path / "models", tmp_path / "models.gpu"
    for version in (colours_model(repository), adder_model(repository), redness_model(repository)):
        if version.parent.name != "redness":
            shutil.copy(version / "certificate.cpu.json", version / "certificate.gpu.json")
    (gpu / ".staging").mkdir(parents=True)
    write_ensemble(ModelBundle.load(repository / "colours" / "1"), gpu, engine="python")
    code, words, said = started(tmp_path / "bin", gpu)
    assert code == 0, said
    assert [word for word in words if "load-model" in word] == ["--load-model=colours"]
    assert "not loaded: redness: " in said and "not loaded: adder: " in said


def test_without_a_model_it_ends_and_says_what_to_do(tmp_path: Path) -> None:
    redness = redness_model(tmp_path / "models")
    (redness / "certificate.cpu.json").unlink()
    for repository in (tmp_path / "models", tmp_path / "none"):
        code, words, said = started(tmp_path / "bin", repository)
        assert code == 1 and not words and "lockstep convert" in said, said


@pytest.mark.needs("triton")
@pytest.mark.parametrize("ensemble", [False, True], ids=["models", "ensemble"])
def test_a_real_triton_serves_a_repository_as_conversions_leave_it(tmp_path: Path, ensemble: bool) -> None:
    """ensemble: as on a GPU, by one name for its four models, with a Python model as the engine's step."""
    converted(tmp_path / "repository")
    settings, shown = settings_for(tmp_path), tmp_path / "repository"
    if ensemble:
        shown = tmp_path / "repository.gpu"
        version = tmp_path / "repository" / "colours" / "1"
        write_ensemble(ModelBundle.load(version), shown, engine="python", target="cpu")
        shutil.copy(version / "certificate.cpu.json", version / "certificate.gpu.json")
        (shown / ".staging").mkdir()
    home, ports = TritonHome(settings.triton_home), Ports.free()
    runtime = Runtime.create(tmp_path / "run", home)
    program(tmp_path / "bin", "tritonserver", f'#!/bin/sh\nexec {home.server} "$@"\n')
    options = [
        f"--backend-directory={runtime.backends}",
        *(f"--{name}-address=127.0.0.1" for name in ("grpc", "metrics")),
        *(f"--{name}-port={getattr(ports, name)}" for name in ("grpc", "metrics")),
        "--allow-gpu-metrics=false",
        f"--backend-config=python,shm-region-prefix-name={runtime.shm_prefix}",
    ]
    env = where(tmp_path / "bin", shown, environment(home, settings))
    process = TritonProcess(["/bin/sh", str(SCRIPT), *options], env, log)
    try:
        wrong, deadline = {"colours": "not asked"}, time.monotonic() + 60
        while any(wrong.values()) and process.exit_code is None and time.monotonic() < deadline:
            time.sleep(0.2)
            wrong = ask_canaries(settings, [], f"grpc://127.0.0.1:{ports.grpc}")
        assert process.exit_code is None and wrong == {"colours": ""}, [wrong, *process.last_lines]
    finally:
        process.end()
        runtime.remove()
