"""Dashboards, rules and runbooks hold together: every name exists, every alert fires, stays quiet and is told."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import typer
import yaml

from deploy.grafana.build import documents
from deploy.grafana.panels import BOARDS
from deploy.grafana.queries import panel_queries, rules
from serving import cli
from serving.metrics_list import BACKEND_METRICS, METRICS

ROOT = Path(__file__).resolve().parents[3]
PROMETHEUS, RUNBOOKS = ROOT / "deploy" / "prometheus", ROOT / "docs" / "runbooks"
NV_INFERENCE = ("count", "exec_count", "queue_duration_us", "request_duration_us", "request_success")
NOT_OURS = {  # Prometheus' own, and Triton's (docs/triton.md), with the labels that queries use
    "up": {"job", "instance"},
    **{f"nv_inference_{name}": {"model"} for name in NV_INFERENCE},
    **{f"nv_gpu_{name}": {"gpu_uuid"} for name in ("utilization", "memory_used_bytes", "memory_total_bytes")},
}
WORDS = set(
    re.findall(r"\w+", "by on and or unless sum min max avg count rate increase changes vector histogram_quantile")
)


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def queries() -> list[str]:
    return [q for board in BOARDS for panel in board.panels for _, q in panel.queries] + [r["expr"] for r in rules()]


def labels_of() -> dict[str, set[str]]:
    """Every series that a query may name, with its labels."""
    known = {d.name: set(d.labels) for d in (*METRICS, *BACKEND_METRICS) if d.kind != "histogram"}
    for d in METRICS:
        if d.kind == "histogram":
            known |= {f"{d.name}_bucket": {*d.labels, "le"}, f"{d.name}_count": set(d.labels)}
    recorded = {rule["record"]: {"source"} for rule in rules() if "record" in rule}
    return {**known, **NOT_OURS, **recorded}


def test_the_committed_dashboards_are_what_the_code_builds() -> None:
    folder = ROOT / "deploy" / "grafana" / "json"
    assert {p.name: p.read_text("utf-8") for p in folder.glob("*.json")} == documents(), "python -m deploy.grafana"


def test_every_name_in_a_query_exists() -> None:
    known = labels_of()
    for query in queries():
        bare = re.sub(r'"[^"]*"|\[\w+\]|\b[\d.]+(e\d+)?\b', "", query)
        names = set(re.findall(r"[a-zA-Z_:][\w:]*", bare)) - WORDS
        series = names & known.keys()
        labels = set().union({"job", "instance"}, *(known[name] for name in series))
        assert series and names - series <= labels, f"{query}: unknown {sorted(names - series - labels)}"


def test_panels_have_units_and_bounded_ones_thresholds() -> None:
    for name, text in documents().items():
        titles = [panel["title"] for panel in json.loads(text)["panels"]]
        assert len(set(titles)) == len(titles), name
        for panel in json.loads(text)["panels"]:
            assert panel["fieldConfig"]["defaults"]["unit"] and panel["targets"], panel["title"]
            assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"], panel["title"]


def test_every_alert_names_its_panel_and_has_its_runbook() -> None:
    panels = {f"{board.uid}/{panel.title}" for board in BOARDS for panel in board.panels}
    assert {a["alert"] for a in alerts()} == {p.stem for p in RUNBOOKS.glob("Lockstep*.md")}
    for alert in alerts():
        assert alert["annotations"]["panel"] in panels and alert["labels"]["severity"] in ("critical", "warning")
        text = (RUNBOOKS / f"{alert['alert']}.md").read_text("utf-8")
        assert text.startswith(f"# {alert['alert']}\n") and "## First look" in text and "## What to do" in text


def test_commands_of_the_runbooks_exist() -> None:
    cli._register()
    group = typer.main.get_command(cli.app)
    for path in RUNBOOKS.glob("*.md"):
        for words in re.findall(r"`lockstep ([a-z -]+)", path.read_text("utf-8")):
            command: Any = group
            for word in words.split():
                commands = getattr(command, "commands", None)
                if commands is None:
                    break
                assert word in commands, f"{path.name}: lockstep {words}"
                command = commands[word]


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.needs("prometheus")
def test_configuration_and_rules_are_prometheus_own() -> None:
    tests = [str(path) for path in sorted(TESTS.parent.glob("*.yml"))]
    for arguments in (("check", "config", str(PROMETHEUS / "prometheus.yml")), ("test", "rules", *tests)):
        done = promtool(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr


TESTS = PROMETHEUS / "tests" / "alerts_test.yml"


def test_every_alert_is_seen_firing() -> None:
    told = [case for test in yaml.safe_load(TESTS.read_text())["tests"] for case in test["alert_rule_test"]]
    assert {case["alertname"] for case in told if case["exp_alerts"]} == {a["alert"] for a in alerts()}


MUTANTS = [
    ("> 0.05", "> 0.5", "drops are noticed late"),
    (" and lockstep:stream_drops:ratio1m > 0.05", "", "an outage that is over is told as drops"),
    ('status=~"5.."', 'status=~"[45].."', "overload counts as an error"),
    ('reason!="not_sampled"', 'reason!="none"', "frames left out on purpose count as lost"),
    ("min by (source) (lockstep_worker_result_age", "max by (source) (lockstep_worker_result_age", "a moved source"),
    ('job!="accountant"', 'job!="mixer"', "an accountant that rebuilds is late"),
    ("unless on (source)", "and on (source)", "a silent camera is blamed on the worker"),
    ("[10m])) > 3", "[10m])) > 0", "one restart is a loop"),
]


@pytest.mark.needs("prometheus")
@pytest.mark.parametrize(("old", "new"), [m[:2] for m in MUTANTS], ids=[m[2] for m in MUTANTS])
def test_a_changed_rule_is_caught(tmp_path: Path, old: str, new: str) -> None:
    found = 0
    for folder in ("rules", "tests"):
        (tmp_path / folder).mkdir()
    for path in (PROMETHEUS / "rules").glob("*.yml"):
        text = path.read_text("utf-8")
        found += text.count(old)
        (tmp_path / "rules" / path.name).write_text(text.replace(old, new))
    (tmp_path / "tests" / TESTS.name).write_text(TESTS.read_text("utf-8"))
    assert found and promtool("test", "rules", str(tmp_path / "tests" / TESTS.name)).returncode != 0


@pytest.mark.needs("prometheus")
def test_a_real_prometheus_understands_every_query(tmp_path: Path) -> None:
    (tmp_path / "empty.yml").write_text("{}")
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
    command = ["prometheus", "--config.file=empty.yml", "--storage.tsdb.path=data", f"--web.listen-address={address}"]
    server = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not _answer(f"http://{address}/-/ready"):
            assert server.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        asked = [rule["expr"] for rule in rules()]
        for value in (".*", "", "no-such|camera"):  # a variable that matches nothing, or has no value, breaks no panel
            asked += [query.text for query in panel_queries(value=value)]
        with httpx.Client() as client:
            for query in asked:
                answer = client.get(f"http://{address}/api/v1/query", params={"query": query}).json()
                assert answer["status"] == "success", f"{query}: {answer}"
    finally:
        server.terminate()
        server.wait(20)


def _answer(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False
