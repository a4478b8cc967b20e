# ruff: noqa: E501  (a mutant a line)
"""deploy/compose.yaml: valid by the Compose Specification, and every file around it names only what there is."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml

from tests.unit.deploy.compose_check import problems, resolve

ROOT = Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "deploy"
SCHEMA = ROOT / "tests" / "data" / "schemas" / "compose-spec.json"

# file, what is there, what a hasty hand makes of it, what must be said
MUTANTS: list[tuple[str, str, str, str]] = [
    ("compose.yaml", 'LOCKSTEP_PORT: "8080"', 'LOCKSTEP_PORT: "8081"', "gateway:8080"),
    ("compose.yaml", "kafka:9092", "kafka:9093", "kafka:9093"),
    ("compose.yaml", "LOCKSTEP_DRAIN_S:", "LOCKSTEP_DRAIN_SECONDS:", "is no setting"),
    ("compose.yaml", 'LOCKSTEP_WORKERS: "2"', 'LOCKSTEP_WORKERS: "two"', "workers"),
    ("compose.yaml", "- --triton\n", "- --tritons\n", "--tritons"),
    ("compose.yaml", "lockstep, topics, apply", "lockstep, topics, make", "no command make"),
    ("compose.yaml", "serving.gateway.main, --config", "serving.gateway.main, --configuration", "--configuration"),
    ("compose.yaml", "secrets: [redis.conf]", "secrets: []", "reads /run/secrets/redis.conf"),
    ("compose.yaml", "  grafana_admin: {file", "  grafana_password: {file", "secret grafana_admin is not defined"),
    ("compose.yaml", "GF_SECURITY_ADMIN_PASSWORD__FILE: /run/secrets/grafana_admin", "GF_SECURITY_ADMIN_PASSWORD: admin", "secret in the file"),
    ("compose.yaml", "./kafka/server.properties:", "./kafka/broker.properties:", "does not exist"),
    ("compose.yaml", "  mixed: {}\n", "", "volume mixed is not declared"),
    ("compose.yaml", ":/srv/model_repository:ro  # their labels", ":/srv/models:ro", "mixer: has no model repository"),
    ("compose.yaml", "    env_file: [{path: secrets/cameras.env, required: false}]\n", "", "mixer: has []; ingest and mixer have"),
    ("compose.yaml", "LOCKSTEP_BIND:-127.0.0.1", "LOCKSTEP_BIND:-0.0.0.0", "not on loopback"),
    ("compose.yaml", 'user: "472:472"', 'user: "0:0"', "grafana: lacks a user other than root"),
    ("compose.yaml", "  read_only: true\n", "", "lacks read_only"),
    ("compose.yaml", "  cap_drop: [ALL]\n", "", "lacks cap_drop ALL"),
    ("compose.yaml", "inside: {internal: true}", "inside: {}", "is not internal"),
    ("compose.yaml", "redis:8.2.3-alpine", "redis:latest", "names no version"),
    ("compose.yaml", "    stop_grace_period: 40s\n    mem_limit", "    stop_grace_period: 20s\n    mem_limit", "drains for up to"),
    ("compose.yaml", "gateway: {condition: service_healthy}", "gateways: {condition: service_healthy}", "is no service"),
    ("compose.yaml", "http://127.0.0.1:9100/readyz", "http://127.0.0.1:9101/readyz", "asks port 9101"),
    ("nginx/listen.conf", "listen 8080", "listen 8090", "front: publishes"),
    ("nginx/upstreams.conf", "gateway:8080", "gateway:8000", "gateway:8000"),
    ("nginx/upstreams.conf", "grafana:3000", "grafana:3001", "grafana:3001"),
    ("nginx/nginx.conf", "client_max_body_size 10m", "client_max_body_size 20m", "max_body_bytes"),
    ("nginx/nginx.conf", "error:body_too_large", "error:too_large", "not in docs/errors.md"),
    ("kafka/server.properties", "PLAINTEXT://kafka:9092", "PLAINTEXT://kafka:19092", "kafka:19092"),
    ("prometheus/compose.yml", "names: [triton], type: A, port: 8002", "names: [triton], type: A, port: 8001x", "triton"),
    ("prometheus/compose.yml", "names: [worker], type: A, port: 9100", "names: [worker], type: A, port: 9101", "worker:9101"),
    ("prometheus/compose.yml", "job_name: mixer", "job_name: mixers", "nobody watches mixer"),
    ("prometheus/compose.yml", "  - compose_alerts.yml\n", "", "mixer is not in both"),
    ("prometheus/compose_alerts.yml", ' or absent(up{job="worker"})', "", "worker is not in both"),
    ("grafana/provisioning/datasources/prometheus.yaml", "prometheus:9090", "prometheus:9091", "prometheus:9091"),
    ("containers/triton.sh", "--grpc-port=8001", "--grpc-port=8011", "triton:8001"),
    ("containers/triton.sh", "shared-memory,", "", "does not close"),
    ("containers/entry.sh", "lockstep doctor --entry", "true", "nothing looks at the machine"),
    ("containers/Containerfile.gpu", "tritonserver:26.07", "tritonserver:25.12", "below 26.07"),
    ("containers/Containerfile.gpu", "/opt/lockstep/program . &&", "/opt/lockstep/lib . &&", "installs twice into /opt/lockstep/lib"),
    ("containers/Containerfile.gpu", "PATH=/opt/lockstep/program/bin:", "PATH=", "/opt/lockstep/program/bin is not in PATH"),
    ("containers/Containerfile.gpu", "RUN lockstep --help\n", "", "does not try the program"),
    ("containers/Containerfile.cpu", "USER 10001:10001\n", "", "runs as root"),
    ("containers/Containerfile.cpu", "LOCKSTEP_MIXED_DIR=", "LOCKSTEP_MIX_DIR=", "LOCKSTEP_MIX_DIR is no setting"),
    ("containers/Containerfile.cpu", "COPY evaluation evaluation", "COPY evaluations evaluation", "COPY evaluations"),
    ("nginx/upstreams.conf", "keepalive_timeout 4s", "keepalive_timeout 5s", "connections are kept as long"),
    ("secrets/make.sh", "| write grafana_admin", "| write grafana", "make.sh does not write"),
    ("secrets/make.sh", "redis:6379", "redis:6380", "redis:6380"),
]  # fmt: skip


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_the_file_is_what_the_compose_specification_allows(name: str) -> None:
    document = yaml.safe_load(re.sub(r"\$\{\w+:\?[^}]*\}", "/srv/models", (DEPLOY / name).read_text("utf-8")))
    schema = json.loads(SCHEMA.read_text("utf-8"))
    jsonschema.Draft202012Validator(schema).validate(document)
    document["services"]["gateway"]["reed_only"] = True
    with pytest.raises(jsonschema.ValidationError, match="reed_only"):
        jsonschema.Draft202012Validator(schema).validate(document)


def test_every_file_names_only_what_there_is() -> None:
    assert problems(ROOT) == []


@pytest.mark.parametrize(("file", "old", "new", "said"), MUTANTS, ids=[f"{m[0]}: {m[2].strip()[:40]}" for m in MUTANTS])
def test_a_hasty_change_in_one_file_is_named(tmp_path: Path, file: str, old: str, new: str, said: str) -> None:
    copy = copy_of_the_files(tmp_path)
    text = (copy / "deploy" / file).read_text("utf-8")
    assert old in text
    (copy / "deploy" / file).write_text(text.replace(old, new), "utf-8")
    assert any(said in problem for problem in problems(copy)), problems(copy)


def copy_of_the_files(folder: Path) -> Path:
    """The deployment's files, and empty files for the rest of the build's context."""
    shutil.copytree(DEPLOY, folder / "deploy", ignore=shutil.ignore_patterns("__pycache__", "embedded"))
    for path in (
        ROOT / "pyproject.toml",
        ROOT / "README.md",
        ROOT / "requirements-serving.lock",
        ROOT / ".dockerignore",
    ):
        shutil.copy(path, folder)
    for name in ("serving", "converters", "models", "evaluation", "loadtest", "model_repository"):
        (folder / name).mkdir()
    return folder


def test_the_overlay_for_gpus_changes_services_that_there_are() -> None:
    base = yaml.safe_load(resolve((DEPLOY / "compose.yaml").read_text("utf-8")))
    overlay = yaml.safe_load((DEPLOY / "compose.gpu.yaml").read_text("utf-8"))
    assert overlay["services"].keys() <= base["services"].keys()


@pytest.mark.needs("prometheus")
def test_prometheus_takes_its_configuration() -> None:
    for name in ("compose.yml", "prometheus.yml"):
        command = ["promtool", "check", "config", str(DEPLOY / "prometheus" / name)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0 and "rules found" in done.stdout, done.stdout + done.stderr


def test_the_secrets_are_made_once_and_fit_each_other(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir()
    script = shutil.copy(DEPLOY / "secrets" / "make.sh", folder)
    subprocess.run(["sh", str(script)], check=True, capture_output=True, timeout=30)
    first = {path.name: path.read_text() for path in folder.glob("*") if path.suffix != ".sh"}
    subprocess.run(["sh", str(script)], check=True, capture_output=True, timeout=30)
    assert {path.name: path.read_text() for path in folder.glob("*") if path.suffix != ".sh"} == first
    word = yaml.safe_load(first["lockstep.yaml"])["redis"].removeprefix("redis://:").partition("@")[0]
    assert len(word) == 48 and f"requirepass {word}\n" in first["redis.conf"]
    assert len(first["grafana_admin"]) == 48 and first["grafana_admin"] != word
    assert folder.stat().st_mode & 0o777 == 0o700


def test_grafana_is_given_the_dashboards_and_a_datasource() -> None:
    compose = yaml.safe_load(resolve((DEPLOY / "compose.yaml").read_text("utf-8")))
    mounts = dict(mount.split(":")[:2] for mount in compose["services"]["grafana"]["volumes"])
    provider = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/lockstep.yaml").read_text("utf-8"))
    assert provider["providers"][0]["options"]["path"] == mounts["./grafana/json"]
    assert mounts["./grafana/provisioning"] == "/etc/grafana/provisioning"
    assert list((DEPLOY / "grafana" / "json").glob("*.json"))
