"""The doctor's rules, on facts made by hand: each bad combination is named, and a good machine is not accused."""

from __future__ import annotations

import ctypes.util
import dataclasses
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from serving.doctor import Facts, Gpu, gather, judge, refusals, report

GOOD = Facts(
    system="Linux x86_64",
    glibc="2.36",
    python="3.11.7",
    shared_libpython=True,
    cpu="a CPU",
    cpu_flags=("avx2", "amx_bf16"),
    cores=2,
    memory_mib=8000,
    triton="24.10",
    packages={"onnxruntime": "1.31.0"},
)
L40 = (Gpu("L40S", "8.9", 46068),)
H100 = (Gpu("H100", "9.0", 81559),)

CASES = [
    ({"system": "Darwin arm64"}, "system", "Linux x86_64"),
    ({"shared_libpython": False}, "python", "libpython"),
    ({"gpus": L40, "driver": "535.104", "container_cuda": "13.0"}, "driver", "CUDA 13.0 needs driver >= 580.65"),
    ({"gpus": H100, "driver": "590.10"}, "tensorrt", "no Hopper"),
    ({"packages": {"tensorrt": "11.1.0", "onnxruntime": "1.25.2"}}, "onnxruntime", "does not work with TensorRT 11"),
    ({"triton": ""}, "triton", "not unpacked"),
    ({"container_triton": "25.12"}, "triton image", "older than 26.07"),
    ({"gpus": L40, "driver": "570.10", "packages": {"tensorrt-rtx-cu13": "1.7.0"}}, "driver", "CUDA 13"),
]


@pytest.mark.parametrize(("change", "what", "why"), CASES)
def test_a_bad_combination_is_named_with_its_reason_and_next_step(
    change: dict[str, object], what: str, why: str
) -> None:
    findings = judge(dataclasses.replace(GOOD, **change))
    bad = [finding for finding in findings if finding.level == "bad"]
    assert [finding.what for finding in bad] == [what]
    assert why in bad[0].why
    assert bad[0].next_step
    assert findings[0] is bad[0], "the worst comes first"


def test_a_good_machine_is_not_accused() -> None:
    assert report(GOOD)["ok"] is True
    assert report(dataclasses.replace(GOOD, gpus=L40, driver="590.10", container_cuda="13.0"))["ok"] is True


def test_the_entry_point_refuses_in_one_line_and_only_what_can_never_work() -> None:
    old = dataclasses.replace(GOOD, gpus=L40, driver="535.104", container_cuda="13.0", triton="")
    (line,) = refusals(old)
    assert line.startswith("driver: CUDA 13.0 needs driver >= 580.65, this one is 535.104; ") and "\n" not in line
    assert refusals(dataclasses.replace(GOOD, triton="", shared_libpython=False)) == []
    assert refusals(dataclasses.replace(GOOD, triton="", container_triton="26.07")) == []


@pytest.mark.parametrize(("version", "code"), [("26.07", 0), ("26.10", 0), ("24.10", 1)])
def test_the_command_of_the_entry_point(version: str, code: int) -> None:
    command = [sys.executable, "-c", "from serving.cli import main; main()", "doctor", "--entry"]
    environment = {**os.environ, "NVIDIA_TRITON_SERVER_VERSION": version}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert done.returncode == code and done.stdout == ""
    assert done.stderr.count("\n") == code, done.stderr


def test_a_shared_python_without_its_file_is_told_with_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"Py_ENABLE_SHARED": 1, "INSTSONAME": "libpython3.11.so.1.0", "LIBDIR": str(tmp_path)}
    monkeypatch.setattr(sysconfig, "get_config_var", said.get)
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    assert not gather(Path("nowhere")).shared_libpython
    worst = judge(dataclasses.replace(GOOD, shared_libpython=False))[0]
    assert "apt-get install libpython3.11;" in worst.next_step
    (tmp_path / "libpython3.11.so.1.0").touch()
    assert gather(Path("nowhere")).shared_libpython


def test_this_machine_can_be_read() -> None:
    facts = gather(Path("nowhere"))
    assert facts.cores >= 1 and facts.memory_mib > 0 and facts.packages["numpy"]
    assert any(finding.what == "triton" for finding in judge(facts))
