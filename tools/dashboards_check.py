"""`make dashboards-check`: every query of dashboards and alerts, asked of the Prometheus of a running `make up`.

Each must give at least one series with a number; what an alert compares is asked without the comparison. The served
models are sent a photo meanwhile, so that latencies are those of something. What this machine cannot have is named
with its reason, and nothing else is left out. Exit 1: a query gave nothing, or no system runs.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import httpx2 as httpx
from skimage import data as photos

from deploy.embedded.up import DOCUMENT
from deploy.grafana.queries import Query, panel_queries, rule_queries

ASK_EVERY_S = 2.0
NO_GPU = "the embedded Triton is a CPU build and tells nothing of GPUs"
NOT_HERE = {  # series that `make up` cannot have; a query over them that gives nothing is named, not counted as missing
    "nv_gpu_utilization": NO_GPU,
    "nv_gpu_memory_used_bytes": NO_GPU,
    "nv_gpu_memory_total_bytes": NO_GPU,
}


class CannotAsk(Exception):
    """There is no system to ask, or its Prometheus does not answer; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Live:
    """Where a running system is: base addresses of its Prometheus and its gateway, and who asks them."""

    prometheus: str
    gateway: str
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=20))

    @classmethod
    def of(cls, data: Path) -> Live:
        """The system whose data folder this is. Raises CannotAsk."""
        try:
            document = json.loads((data / DOCUMENT).read_text("utf-8"))
        except FileNotFoundError:
            raise CannotAsk(f"{data}: no system runs with this data folder; start `make up` first") from None
        if not document["prometheus"]:
            raise CannotAsk("the running system has no Prometheus: apt-get install prometheus, then start it again")
        return cls(document["prometheus"], document["gateway"])


def numbers(live: Live, text: str) -> list[float]:
    """The values of an instant query, those that are numbers. Raises CannotAsk."""
    try:
        answer: dict[str, Any] = live.client.get(f"{live.prometheus}/api/v1/query", params={"query": text}).json()
    except (httpx.HTTPError, ValueError) as error:
        raise CannotAsk(f"{live.prometheus} does not answer: {type(error).__name__}: {error}") from error
    if answer["status"] != "success":
        raise CannotAsk(f"{live.prometheus} refuses {text}: {answer['error']}")
    values = [float(series["value"][1]) for series in answer["data"]["result"]]
    return [value for value in values if math.isfinite(value)]


def ask_models(live: Live, photo: bytes) -> None:
    """One picture to each served model; whether they answer well is not what is looked at here."""
    try:
        models = live.client.get(f"{live.gateway}/v1/models").json()["models"]
        for model in models:
            address = f"{live.gateway}/v1/models/{model['name']}/infer"
            live.client.post(address, content=photo, headers={"Content-Type": "image/jpeg"})
    except httpx.HTTPError as error:
        raise CannotAsk(f"{live.gateway} does not answer: {type(error).__name__}: {error}") from error


def unanswered(live: Live, queries: Sequence[Query], patience_s: float) -> list[Query]:
    """Those that gave no number within `patience_s`; a rate needs two scrapes, a rule its evaluation."""
    photo = cv2.imencode(".jpg", cv2.cvtColor(photos.chelsea(), cv2.COLOR_RGB2BGR))[1].tobytes()
    left, deadline = list(queries), time.monotonic() + patience_s
    while True:
        ask_models(live, photo)
        left = [query for query in left if not numbers(live, query.text)]
        if all(excuse(query) for query in left) or time.monotonic() > deadline:
            return left
        print(f"{len(queries) - len(left)} of {len(queries)} give series ...", file=sys.stderr)
        time.sleep(ASK_EVERY_S)


def excuse(query: Query) -> str:
    """Why this query cannot give anything here; "" where it must."""
    return next((reason for name, reason in NOT_HERE.items() if name in query.text), "")


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask, print, 0 or 1."""
    parser = argparse.ArgumentParser(prog="dashboards-check", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("output/up"), help="data folder of the running `lockstep up`")
    parser.add_argument("--patience", type=float, default=120.0, help="seconds until each must have given series")
    given = parser.parse_args(arguments)
    queries = [*panel_queries(), *rule_queries()]
    try:
        live = Live.of(given.data)
        with live.client:
            left = unanswered(live, queries, given.patience)
    except CannotAsk as error:
        print(f"dashboards-check: {error}", file=sys.stderr)
        return 1
    missing = [query for query in left if not excuse(query)]
    for query in left:
        print(f"{'not applicable' if excuse(query) else 'MISSING'}: {query.name}: {query.text}")
        if excuse(query):
            print(f"    {excuse(query)}")
    print(
        f"{len(queries) - len(left)} of {len(queries)} queries of panels, variables, rules and alerts give series, "
        f"{len(missing)} missing, {len(left) - len(missing)} not applicable"
    )
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
