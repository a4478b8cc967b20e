"""What binds a request is decided from its figures: a case for each cause, and hasty versions that must be caught."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import typer

from serving import cli
from serving.config import Settings
from serving.profiling import cause as deciding
from serving.profiling.cause import CAUSES, binding_cause
from serving.profiling.facts import STAGES, Facts, Level
from serving.profiling.pages import Between, Pages, total
from serving.spec import json_schema


def level(clients: int = 1, batch: float = 1.0, **stages: float) -> Level:
    whole = {stage: stages.get(stage, 0.1) for stage in STAGES}
    mean = sum(whole.values())
    return Level(clients, 100, 0, 10.0, mean, mean, mean, batch, whole)


def facts(alone: Level, loaded: Level | None = None, **changes: Any) -> Facts:
    usual = Facts(
        model="parts", sample="a.jpg", alone=alone, loaded=loaded or replace(alone, clients=8, batch=4.0),
        source=(640, 480), model_size=(224, 224), fast=False, batch_limit=8, tuned=False, cores=2, workers=2,
        bytes={"request": 50_000, "answer": 900},
    )  # fmt: skip
    return replace(usual, **changes)


SLOW_NET = level(infer=20.0)
WAITING = level(8, 1.0, infer=20.0, queue=60.0)
CASES = {
    "a 12 megapixel photograph": (facts(level(decode=60.0), source=(4000, 3000)), "input_size"),
    "a photograph, decoded": (facts(level(decode=6.0, infer=5.0)), "preprocessing"),
    "decode and resize beat the network together": (facts(level(decode=4, preprocess=4, infer=6)), "preprocessing"),
    "a header alone": (facts(level(header=9.0, infer=6.0)), "preprocessing"),
    "a large picture of a slow network": (facts(level(decode=60.0, infer=90.0), source=(4000, 3000)), "computation"),
    "no size of its own": (facts(level(decode=60.0), source=(4000, 3000), model_size=None), "preprocessing"),
    "the network": (facts(SLOW_NET), "computation"),
    "many boxes": (facts(level(postprocess=20.0)), "computation"),
    "joined, though requests wait": (facts(SLOW_NET, level(8, 6.0, infer=20.0, queue=60.0)), "computation"),
    "one by one while requests wait": (facts(SLOW_NET, WAITING, batch_limit=1), "no_batch"),
    "one by one, tuned to it": (facts(SLOW_NET, WAITING, batch_limit=1, tuned=True), "computation"),
    "one by one, nobody waits": (facts(SLOW_NET, level(2, 1.0, infer=20.0, queue=1.0), batch_limit=1), "computation"),
    "a body of megabytes": (facts(level(wire=9.0, transfer=8.0, infer=10.0)), "transfer"),
    "a model that does next to nothing": (facts(level(gateway=2.0, infer=0.2)), "gateway"),
}  # fmt: skip
MUTANTS: dict[str, tuple[str, Any]] = {
    "sizes are not compared": ("LARGE_INPUT", 1e9),
    "any photograph is too large": ("LARGE_INPUT", 4.0),
    "batches are never missed": ("NO_BATCH", 0.5),
    "every batch is missed": ("NO_BATCH", 99.0),
    "waiting is not asked": ("WAITED", 0.0),
    "tuning is not believed": ("_never_joined", lambda f: f.loaded.batch < 1.5 and f.loaded.stages_ms["queue"] > 10.0),
    "the header is left out": ("SPEAKS_FOR", {**deciding.SPEAKS_FOR, "preprocessing": ("decode", "preprocess")}),
    "preprocess is left out": ("SPEAKS_FOR", {**deciding.SPEAKS_FOR, "preprocessing": ("header", "decode")}),
    "postprocess is left out": ("SPEAKS_FOR", {**deciding.SPEAKS_FOR, "computation": ("infer",)}),
    "the wire is left out": ("SPEAKS_FOR", {**deciding.SPEAKS_FOR, "transfer": ("transfer",)}),
    "the gateway is the wire": ("SPEAKS_FOR", {**deciding.SPEAKS_FOR, "gateway": (), "transfer": ("wire", "gateway")}),
}


@pytest.mark.parametrize("name", CASES)
def test_each_case_has_its_cause(name: str) -> None:
    case, cause = CASES[name]
    finding = binding_cause(case)
    assert finding.cause == cause, finding
    assert 0 < finding.share <= 1 and finding.why and finding.try_next


def test_every_cause_has_a_case() -> None:
    assert {cause for _, cause in CASES.values()} == set(CAUSES)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_hasty_version_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deciding, *MUTANTS[name])
    assert any(binding_cause(case).cause != cause for case, cause in CASES.values())


def test_every_advice_names_commands_and_settings_that_exist() -> None:
    if not cli.app.registered_commands:
        cli._register()
    program: Any = typer.main.get_command(cli.app)
    said = [step for case, _ in CASES.values() for step in binding_cause(case).try_next]
    commands = {name for step in said for name in re.findall(r"`lockstep (\w+)", step)}
    assert commands >= {"tune", "convert", "serve", "check"} and commands <= set(program.commands)
    options = re.findall(r"`lockstep (\w+)[^`]*?(--\w+)", " ".join(said))
    assert {("serve", "--workers"), ("convert", "--target")} == set(options)
    for command, option in options:
        assert option in {o for p in program.commands[command].params for o in p.opts}
    keys = re.findall(r"`(\w+): \{(\w+):", " ".join(said))
    defs = json_schema()["$defs"]
    assert len(keys) >= 2
    for section, key in keys:
        assert key in defs[f"{section.capitalize()}Spec"]["properties"]
    assert set(re.findall(r"setting `(\w+)`", " ".join(said))) <= set(Settings.model_fields)


PAGE = """# HELP x
lockstep_http_request_seconds_sum{route="/v1/models/{name}/infer"} %s
lockstep_http_request_seconds_count{route="/v1/models/{name}/infer"} %s
lockstep_http_request_seconds_sum{route="other"} 99
lockstep_inference_server_seconds_sum{model="parts"} %s
lockstep_inference_server_seconds_count{model="parts"} %s
"""
TRITON = """nv_inference_count{model="parts",version="1"} %s
nv_inference_exec_count{model="parts",version="1"} %s
nv_inference_queue_duration_us{model="parts",version="1"} %s
nv_inference_request_duration_us{model="parts",version="1"} %s
lockstep_model_stage_seconds_total{model="parts",stage="decode"} %s
lockstep_model_stage_seconds_total{model="parts",stage="infer"} %s
lockstep_model_copied_bytes_total{model="parts"} %s
"""


def test_stages_add_up_to_what_the_client_saw() -> None:
    before = Pages(PAGE % (1.0, 10, 0.5, 10), TRITON % (10, 10, 0, 1e5, 1.0, 1.0, 1000))
    after = Pages(PAGE % (1.3, 20, 0.7, 20), TRITON % (20, 15, 50_000, 2.5e5, 1.04, 1.03, 2000))
    between = Between(before, after, "parts", "/v1/models/{name}/infer")
    stages = between.stages_ms(client_ms=35.0)
    assert list(stages) == list(STAGES)
    expected = {"wire": 5.0, "gateway": 10.0, "transfer": 5.0, "queue": 5.0, "decode": 4.0, "infer": 3.0, "batch": 3.0}
    assert {name: ms for name, ms in stages.items() if ms} == pytest.approx(expected)
    assert sum(stages.values()) == pytest.approx(35.0)
    assert (between.batch, between.copied_bytes) == (2.0, 100)
    assert total(before.gateway, "lockstep_http_request_seconds_sum") == 100.0
