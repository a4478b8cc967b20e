"""A worker whose model costs nothing: what is left is the cost of the log.

`python -m serving.testing.stub_worker NAME [MEMBER]`. Settings come from the environment, as every role's do.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from serving.config import load_settings
from serving.errors import ServingError
from serving.roles.main_worker import WorkerOptions, run_worker
from serving.streams.models import OpenedModel
from serving.testing.stub_bundles import make_bundle
from serving.types import Detections, ImageSize, InferRequest, InferResponse

BOX = Detections(np.array([[8, 8, 24, 40]], np.float32), np.array([0.9], np.float32), np.zeros(1, np.int64))
SIZE = {"width": 320, "height": 240}


def answer(requests: Sequence[InferRequest]) -> list[InferResponse | ServingError]:
    """The same box for every picture, which is not looked at."""
    return [InferResponse(BOX, ImageSize(64, 64), {"infer": 0.0}) for _ in requests]


def main() -> None:
    """Until SIGTERM."""
    name, member = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""
    with tempfile.TemporaryDirectory(prefix="stub-worker-") as folder:
        bundle = make_bundle(Path(folder), name, "detection", preprocess=SIZE)
        options = WorkerOptions((name,), member=member)
        run_worker(load_settings().settings, options, lambda _: OpenedModel(bundle, answer, lambda: None))


if __name__ == "__main__":
    main()
