"""The models that a worker on the log takes: those that look at pictures."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from serving.errors import ParameterInvalid
from serving.roles.main_worker import WorkerOptions, _pipelines
from serving.streams.main import OpenedModel
from serving.testing.stub_bundles import make_bundle


def test_a_model_that_hears_is_refused_before_it_meets_a_picture(tmp_path: Path) -> None:
    closed: list[str] = []
    ears = make_bundle(tmp_path, "ears", "audio", sound={"window": 512}, labels=["speech"], outputs=["p"])
    opened = OpenedModel(ears, lambda requests: [], lambda: closed.append("ears"))
    with pytest.raises(ParameterInvalid, match="ears hears sound, and the log carries pictures"), ExitStack() as stack:
        _pipelines(WorkerOptions(("ears",)), lambda name: opened, stack)
    assert closed == ["ears"]
