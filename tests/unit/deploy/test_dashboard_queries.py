"""Alerts taken apart into what they compare, and `make dashboards-check` against a Prometheus that answers by heart."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from deploy.embedded.prometheus import EmbeddedPrometheus, PrometheusSettings
from deploy.grafana.queries import Query, operands, panel_queries, rule_queries, rules
from tools import dashboards_check


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("up == 0", ["up"]),
        ("a > 14.4 * 0.001 and b > 1", ["a", "b"]),
        ("min by (x) (a) > 5\n  unless on (x) min by (x) (b) > 5", ["min by (x) (a)", "min by (x) (b)"]),
        ('sum(a{q="x > (1 and 2"}) / sum(b) < 0.10', ['sum(a{q="x > (1 and 2"}) / sum(b)']),
        ("avg(a) < 0.5 and on () max(b) > 0.8", ["avg(a)", "max(b)"]),
        ("(a > 1) or vector(0)", ["(a > 1)", "vector(0)"]),
    ],
)
def test_an_alert_is_taken_apart(expression: str, expected: list[str]) -> None:
    assert operands(expression) == expected


def test_every_panel_variable_rule_and_alert_is_asked() -> None:
    names = {query.name for query in (*panel_queries(), *rule_queries())}
    assert names >= {rule.get("alert") or rule["record"] for rule in rules()}
    assert {"overview/Errors", "streams/Drops by reason", "streams $source", "rest $model"} <= names
    assert not any("$" in query.text for query in panel_queries())
    assert not any(mark in query.text.split("{")[0] for query in rule_queries() for mark in (" > ", " == ", " unless "))


class Answers(BaseHTTPRequestHandler):
    """A Prometheus and a gateway: a query that names a key of `missing` gives what stands there, others one 1."""

    missing: dict[str, list[str]] = {}  # noqa: RUF012 - set by the test

    def do_GET(self) -> None:
        asked = parse_qs(urlsplit(self.path).query).get("query", [""])[0]
        values = next((values for name, values in self.missing.items() if name in asked), ["1"])
        result = [{"metric": {}, "value": [0, value]} for value in values]
        self._say({"status": "success", "data": {"result": result}, "models": [{"name": "digits"}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._say({})

    def _say(self, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    (tmp_path / "up.json").write_text(json.dumps({"prometheus": address, "gateway": address}))
    yield tmp_path
    server.shutdown()
    server.server_close()


GPUS: dict[str, list[str]] = {"nv_gpu_": []}


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        ({"lockstep_shed_total": []}, "MISSING: overview/Saturation: sum(rate(lockstep_shed_total[5m]))"),
        ({"lockstep_worker_result_age": ["NaN"]}, "MISSING: LockstepResultAge: min by (source) (lockstep_worker"),
        ({"max(lockstep_machine_cpu_busy)": []}, "MISSING: LockstepPreprocessingBound: max(lockstep_machine_cpu"),
        ({"group by (source)": []}, "MISSING: streams $source: group by (source) (lockstep_stream_accepted_total)"),
    ],
)
def test_a_query_without_a_number_is_named(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, missing: dict[str, list[str]],
    told: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(Answers, "missing", {**GPUS, **missing})
    assert dashboards_check.main(["--data", str(data), "--patience", "0"]) == 1
    assert told in capsys.readouterr().out


def test_gpus_are_named_and_the_count_is_told(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Answers, "missing", GPUS)
    assert dashboards_check.main(["--data", str(data)]) == 0
    out = capsys.readouterr().out
    total, spared = len([*panel_queries(), *rule_queries()]), out.count("not applicable: ")
    assert spared == 4 and "not applicable: machine/GPU busy: nv_gpu_utilization" in out
    assert out.splitlines()[-1].startswith(f"{total - spared} of {total} queries") and "0 missing, 4 not" in out


def test_without_a_system_it_says_what_to_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dashboards_check.main(["--data", str(tmp_path)]) == 1
    assert "start `make up` first" in capsys.readouterr().err
    (tmp_path / "up.json").write_text('{"prometheus": "", "gateway": "http://127.0.0.1:1"}')
    assert dashboards_check.main(["--data", str(tmp_path)]) == 1
    assert "apt-get install prometheus" in capsys.readouterr().err
    (tmp_path / "up.json").write_text('{"prometheus": "http://127.0.0.1:1", "gateway": "http://127.0.0.1:1"}')
    assert dashboards_check.main(["--data", str(tmp_path)]) == 1
    assert "http://127.0.0.1:1 does not answer" in capsys.readouterr().err


@pytest.mark.needs("prometheus")
def test_a_real_prometheus_scrapes_the_targets_with_the_rules(data: Path) -> None:
    page = json.loads((data / "up.json").read_text())["gateway"]
    prometheus = EmbeddedPrometheus(PrometheusSettings(data / "prometheus"))
    prometheus.write({"gateway": [f"{page}/metrics"]})
    assert prometheus.start() and prometheus.pid
    live = dashboards_check.Live(prometheus.url, page)
    try:
        with live.client:
            query = Query("up", 'count(up{job="gateway"})')
            assert dashboards_check.unanswered(live, [query], 60) == []
            assert dashboards_check.numbers(live, "count(ALERTS) or vector(0)") == [0.0]
            with pytest.raises(dashboards_check.CannotAsk, match="refuses sum"):
                dashboards_check.numbers(live, "sum(")
    finally:
        prometheus.stop()
    assert prometheus.pid is None and not prometheus.started


def test_without_the_program_nothing_starts_and_the_files_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.embedded.prometheus.PROGRAM", "no-such-program")
    prometheus = EmbeddedPrometheus(PrometheusSettings(tmp_path / "p"))
    prometheus.write({"worker": ["http://127.0.0.1:9/metrics", "http://127.0.0.1:10/metrics"]})
    assert not prometheus.start() and prometheus.url == ""
    groups = json.loads((tmp_path / "p" / "targets" / "lockstep.json").read_text())
    assert groups == [{"targets": ["127.0.0.1:9", "127.0.0.1:10"], "labels": {"job": "worker"}}]
    assert (tmp_path / "p" / "rules" / "alerts.yml").is_file()
