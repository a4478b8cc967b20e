"""Settings: command line over environment over file over default, each with its source; a bad value is named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from serving.config import ConfigInvalid, Settings, installed_triton, load_settings


def test_every_layer_wins_over_the_one_below(tmp_path: Path) -> None:
    file = tmp_path / "lockstep.yaml"
    file.write_text("port: 1000\nworkers: 3\nmax_side: 99\n")
    loaded = load_settings(file, {"LOCKSTEP_PORT": "2000", "LOCKSTEP_WORKERS": "4"}, port=3000)
    assert (loaded.settings.port, loaded.settings.workers, loaded.settings.max_side) == (3000, 4, 99)
    assert loaded.sources["port"] == "command line"
    assert loaded.sources["workers"] == "environment LOCKSTEP_WORKERS"
    assert loaded.sources["max_side"] == str(file)
    assert loaded.sources["host"] == "default"


@pytest.mark.parametrize(
    ("text", "env", "message"),
    [
        ("prot: 1", {}, r"prot .*known settings: repository"),
        ("port: 99999", {}, r"port \(.*lockstep.yaml\): .*less than or equal to 65535, got 99999"),
        ("drain_s: 25", {}, r"drain_s .*less than or equal to 20, got 25"),
        ("", {"LOCKSTEP_PORT": "high"}, r"port \(environment LOCKSTEP_PORT\): .*integer.*got 'high'"),
        ("- 1", {}, "expected a mapping"),
        ("a: [", {}, "cannot be read as YAML"),
        ("a: 2026-13-45", {}, "cannot be read as YAML"),
        (b"\xff\xfe", {}, r"lockstep.yaml: cannot be read as YAML: .*utf-8"),
    ],
)
def test_a_bad_setting_is_named_with_its_source(
    tmp_path: Path, text: str | bytes, env: dict[str, str], message: str
) -> None:
    file = tmp_path / "lockstep.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigInvalid, match=message):
        load_settings(file, env)


def test_loopback_is_the_default() -> None:
    assert Settings().host == "127.0.0.1"
    assert Settings().allow_unauthenticated is False


def test_the_embedded_triton_is_found_from_any_folder(tmp_path: Path) -> None:
    home = Path(".triton/site/pytriton/tritonserver")
    installation, elsewhere = tmp_path / "lockstep", tmp_path / "project"
    assert installed_triton(elsewhere, installation) == home, "neither has it: the message names the usual place"
    (installation / home).mkdir(parents=True)
    assert installed_triton(elsewhere, installation) == installation / home
    (elsewhere / home).mkdir(parents=True)
    assert installed_triton(elsewhere, installation) == home


def test_an_inherited_folder_of_other_processes_metrics_breaks_nothing(tmp_path: Path) -> None:
    """It may be gone, dirty or full: a command's metrics are its own process's."""
    code = (
        "from serving.cli.output import settings_from; settings_from(None)\n"
        "from serving.metrics import Metrics; m = Metrics(); m.inc('lockstep_shed_total', reason='wait')\n"
        "assert b'lockstep_shed_total' in m.exposition()"
    )
    environment = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "gone"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
