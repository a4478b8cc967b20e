"""`make demo-workloads`: rows are found by their files; a failing one is named on the page and ends no other."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from serving.spec import ModelSpec
from tools.workloads.__main__ import run
from tools.workloads.page import render
from tools.workloads.row import Row, Shown
from tools.workloads.rows import rows_named

ROOT = Path(__file__).resolve().parents[2]
PICTURE = np.full((30, 40, 3), 90, np.uint8)


def row(place: int, show: Any, *models: str) -> Row:
    return Row(place, f"row <{place}>", "about", models, show)


def test_every_row_is_found_by_its_file_and_names_models_in_the_order_they_are_made_of() -> None:
    rows = rows_named()
    files = [p for p in (ROOT / "tools" / "workloads" / "rows").glob("*.py") if p.stem != "__init__"]
    assert len(rows) == len(files) >= 7
    assert len({r.place for r in rows}) == len(rows) and rows == sorted(rows, key=lambda r: r.place)
    for one in rows:
        assert one.models and one.title and one.about
        for number, model in enumerate(one.models):
            spec = ModelSpec.read(ROOT / "models" / f"{model}.yaml")
            assert spec.shipped
            assert {step.model for step in spec.steps if step.model} <= set(one.models[:number]), "its parts come first"
    with pytest.raises(SystemExit, match="no workload nothing; there are: .*detection"):
        rows_named(["nothing"])


def test_a_row_that_fails_in_any_way_is_its_own_failure() -> None:
    def broken(bench: Any) -> Shown:
        raise KeyError("detections")

    bench: Any = SimpleNamespace()
    assert run(row(1, broken), bench, set(), "1/3")[1] == "KeyError: 'detections'"
    _, told, _ = run(row(2, broken, "digits", "face_yolo"), bench, {"face_yolo"}, "2/3")
    assert isinstance(told, str) and told.startswith("not converted: face_yolo")
    fine = Shown(figures={"a request": "3 ms"})
    assert run(row(3, lambda bench: fine), bench, set(), "3/3")[1] is fine


def test_the_page_holds_its_pictures_and_escapes_what_comes_from_outside() -> None:
    shown = Shown([("a <b>", PICTURE)], {"time": "3 ms"}, [{"label": "<script>"}, {"label": "x", "score": 0.5}], ["/f"])
    page = render([(row(1, None), shown, 1.0), (row(2, None), "ValueError: <no>", 0.0)], {"cpu": "a & b"})
    assert page.count("data:image/jpeg;base64,") == 1 and "http" not in page
    for text in ("row &lt;1&gt;", "a &lt;b&gt;", "&lt;script&gt;", "ValueError: &lt;no&gt;", "a &amp; b", "3 ms"):
        assert text in page
    assert "<script>" not in page and "Failed: row &lt;2&gt;" in page
    assert "Failed" not in render([(row(1, None), shown, 1.0)], {})
