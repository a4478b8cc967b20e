"""Documents that are written from code say what the code says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from serving.errors import ImageInvalid, ServingError, SpecInvalid, subclasses_by_code
from serving.gateway import errors
from serving.metrics import METRICS, MetricDefinition, Metrics
from serving.metrics_docs import markdown
from serving.metrics_list import LABEL_VALUES

DOCS = Path(__file__).resolve().parents[3] / "docs"


def test_docs_errors_is_the_table() -> None:
    assert (DOCS / "errors.md").read_text("utf-8") == errors.markdown()


def test_docs_metrics_is_the_list() -> None:
    assert (DOCS / "metrics.md").read_text("utf-8") == markdown()


def test_every_serving_error_stands_in_the_table() -> None:
    codes = set(subclasses_by_code(ServingError))
    edge_only = {"method_not_allowed", "http_invalid", "internal"}
    assert codes | edge_only == set(errors.TABLE)


@pytest.mark.parametrize(
    "text",
    [
        "cannot read /srv/models/a/b.onnx",
        "at 0x7f00deadbeef",
        "Traceback (most recent call last)",
        'File "x.py", line 3',
        "bell\x00",
    ],
)
def test_a_message_with_something_from_inside_is_not_shown(text: str) -> None:
    status, members = errors.problem(ImageInvalid(text), "id")
    assert status == 422 and members["detail"] == errors.TABLE["image_invalid"].title


def test_an_error_of_another_kind_is_internal() -> None:
    assert errors.problem(SpecInvalid("x"), "id")[1]["code"] == "internal"
    assert errors.problem(RuntimeError("x"), "id")[1]["detail"] == errors.TABLE["internal"].title


def test_every_label_has_a_closed_set() -> None:
    assert {label for d in METRICS for label in d.labels} == set(LABEL_VALUES)
    assert len({d.name for d in METRICS}) == len(METRICS)


def test_a_metric_definition_checks_itself() -> None:
    with pytest.raises(ValueError, match="_total"):
        MetricDefinition("lockstep_things", "counter", "x")
    with pytest.raises(ValueError, match="buckets"):
        MetricDefinition("lockstep_time_seconds", "histogram", "x")


def test_a_metric_that_is_not_in_the_list_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        Metrics().inc("lockstep_nothing_total")


def test_the_gateways_parent_has_not_imported_prometheus() -> None:
    """prometheus_client looks for its folder once, when it is imported: each worker does it, after the fork."""
    code = "import sys, serving.gateway.main; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
