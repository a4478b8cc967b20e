"""One YAML from `convert` to Triton, gateway and `run`: the same answers everywhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from triton_support import _value, certify, picture, png, publish, redness_model, settings_for

from converters.main import convert
from serving.backend import open_served
from serving.bundle import ModelBundle, catalogue
from serving.config import Settings
from serving.errors import CertificateRefused, SpecInvalid
from serving.gallery import Facts, Galleries, GalleryWriter
from serving.gallery.asking import found_in, sample_of, to_enrol
from serving.streams.main import RunOptions, run_streams
from serving.streams.models import OpenedModel, in_process, through_triton
from serving.triton.embedded import EmbeddedTriton
from serving.types import Detections, InferRequest, InferResponse

pytestmark = pytest.mark.needs("triton")
YAML = """
name: who_is_red
task: pipeline
steps:
  - {name: boxes, do: infer, model: redness, parameters: {score_threshold: 0.5}}
  - {name: parts, do: crop, of: boxes}
  - {name: look, do: infer, of: parts, model: shade}
  - {name: who, do: match, of: look, gallery: shades, options: {threshold: 0.999, margin: 0.00001}}
answer: {detections: boxes, fields: [who], appearance: look}
parity: {samples: samples}
"""


def shade_model(repository: Path) -> Path:
    """Embedding: the mean colour."""
    nodes = [helper.make_node("GlobalAveragePool", ["x"], ["mean"]), helper.make_node("Flatten", ["mean"], ["look"])]
    inputs: list[onnx.ValueInfoProto] = [_value("x", ["n", 3, 8, 8])]
    graph = helper.make_graph(nodes, "shade", inputs, [_value("look", ["n", 3])])
    return publish(repository, "shade", graph, {"task": "embedding", "outputs": ["look"]})


def samples(folder: Path) -> None:
    folder.mkdir()
    for number in range(6):
        red = 255 if number % 2 else 40
        (folder / f"{number}.png").write_bytes(png(picture(red, 40 * number, 90, width=40 + number, height=24)))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, Path, dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("pipeline")
    redness_model(folder / "repository")
    shade_model(folder / "repository")
    samples(folder / "samples")
    spec = folder / "who_is_red.yaml"
    spec.write_text(YAML)
    settings = settings_for(folder, galleries=folder / "galleries")
    result = convert(spec, settings=settings, progress=lambda line: None)
    yield settings, spec, result.certificate


def ask(settings: Settings, data: bytes, **parameters: Any) -> dict[str, Any]:
    bundle = catalogue(settings.repository)[0]["who_is_red"]
    with closing(open_served(bundle.version_dir, settings)) as model:
        (answer,) = model.infer([InferRequest(encoded=data, parameters=parameters)])
        assert isinstance(answer, InferResponse), answer
        return model.document(answer)


def enrol(settings: Settings) -> None:
    galleries = Galleries(settings.galleries)
    if "shades" not in galleries.names():
        one = to_enrol(found_in(ask(settings, png(picture(255, 0, 0)), embeddings=True)))
        with GalleryWriter(galleries.create(Facts("shades", "who_is_red"))) as writer:
            writer.enrol("pure", [sample_of(one, {})], fingerprint=one.fingerprint, label="Pure red")


def test_the_certificate_names_the_models_and_proves_server_and_gateway(
    place: tuple[Settings, Path, dict[str, Any]],
) -> None:
    settings, spec, certificate = place
    rows = {row["stage"]: row for row in certificate["rows"]}
    assert certificate["verdict"] == "passed", certificate["blockers"]
    assert [rows[stage]["status"] for stage in ("models", "server", "gateway", "memory")] == ["passed"] * 4
    assert set(rows["models"]["figures"]) == {"redness", "shade"}
    again = convert(spec, settings=settings, progress=lambda line: None)
    assert again.outcome == "up_to_date"


def test_triton_answers_as_this_process_and_sees_an_enrolment_at_once(
    place: tuple[Settings, Path, dict[str, Any]],
) -> None:
    settings, _, _ = place
    red = png(picture(255, 0, 0))
    with EmbeddedTriton(settings.repository, ["who_is_red"], settings) as triton:
        triton.wait_ready(60)
        control = triton.watch("who_is_red").control

        def served(data: bytes) -> dict[str, Any]:
            inputs = {"image": np.frombuffer(data, np.uint8)[None]}
            reply = control.infer("who_is_red", inputs, {}, ("result",), 10)
            document: dict[str, Any] = json.loads(reply["result"].tobytes())
            return document

        assert served(red)["detections"][0]["who"]["reason"] == "empty_gallery"
        enrol(settings)
        ours, theirs = ask(settings, red), served(red)
        assert theirs["detections"][0]["label"] == "Pure red"
        assert {**ours, "timings_ms": 0} == {**theirs, "timings_ms": 0}
        assert served(png(picture(0, 0, 255)))["detections"] == []


def test_what_boxes_look_like_comes_through_triton_as_it_is_found_here(
    place: tuple[Settings, Path, dict[str, Any]], tmp_path: Path
) -> None:
    """Boxes and none, asked one by one; and DeepSORT over a clip, of which every line is the same."""
    settings, _, _ = place
    bundle = catalogue(settings.repository)[0]["who_is_red"]
    clip = tmp_path / "clip"
    clip.mkdir()
    for number in range(8):
        (clip / f"{number:03d}.png").write_bytes(png(picture(255, 9 * number, 0, width=64, height=48)))
    options = RunOptions((str(clip),), ("who_is_red",), track="deepsort", results=tmp_path / "r.jsonl")
    asked = [InferRequest(frame=picture(*rgb)) for rgb in ((255, 90, 0), (0, 90, 255), (200, 0, 30))]

    def tried(opened: OpenedModel) -> tuple[list[Any], list[dict[str, Any]]]:
        answers = [answer.result for answer in opened.infer(asked) if isinstance(answer, InferResponse)]
        looks = [boxes.appearance for boxes in answers if isinstance(boxes, Detections)]
        assert run_streams(options, lambda name: opened).ok
        lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
        return looks, [{**line, "timings_ms": 0} for line in lines]

    with EmbeddedTriton(settings.repository, ["who_is_red"], settings) as triton:
        triton.wait_ready(60)
        here, here_told = tried(in_process(open_served(bundle.version_dir, settings)))
        there, there_told = tried(through_triton(bundle, f"grpc://{triton.grpc_url}"))
    assert len(here) == len(there) == 3 and here[1] is there[1] is None, "where nothing was found nothing looks"
    assert here[0].shape == (1, 3) and not np.array_equal(here[0], here[2])
    assert np.array_equal(here[0], there[0]) and np.array_equal(here[2], there[2])
    assert here_told == there_told and here_told[-1]["detections"][0]["track_id"] > 0
    assert not {"look", "appearance"} & set(here_told[-1]["detections"][0])


def test_run_takes_the_same_version(place: tuple[Settings, Path, dict[str, Any]], tmp_path: Path) -> None:
    settings, _, _ = place
    enrol(settings)
    frames = tmp_path / "clip"
    frames.mkdir()
    for number in range(12):
        (frames / f"{number:03d}.png").write_bytes(png(picture(255, 0, 0, width=64, height=48)))

    def open_model(name: str) -> OpenedModel:
        return in_process(open_served(catalogue(settings.repository)[0][name].version_dir, settings))

    options = RunOptions((str(frames),), ("who_is_red",), track="bytetrack", results=tmp_path / "r.jsonl",
                         presence=tmp_path / "who.json")  # fmt: skip
    assert run_streams(options, open_model).ok
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert len(lines) == 12 and all(line["outcome"] == "result" and line["task"] == "pipeline" for line in lines)
    assert lines[0]["detections"][0]["who"]["label"] == "Pure red"
    assert lines[-1]["detections"][0]["track"]["label"] == "Pure red" and lines[-1]["detections"][0]["track_id"] >= 1
    people = json.loads((tmp_path / "who.json").read_text())["people"]
    assert [person["name"] for person in people] == ["Pure red"]


def test_a_model_that_was_certified_anew_makes_the_pipeline_refuse(
    place: tuple[Settings, Path, dict[str, Any]], tmp_path: Path
) -> None:
    import shutil

    settings, _, _ = place
    other = settings_for(tmp_path)
    shutil.copytree(settings.repository, other.repository)
    certify(other.repository / "shade" / "1", peak_rss_bytes=1)
    version = ModelBundle.load(other.repository / "who_is_red" / "1").version_dir
    with pytest.raises(CertificateRefused, match="was certified with shade 1 .*convert the pipeline again"):
        open_served(version, other)
    shutil.rmtree(other.repository / "shade")
    with pytest.raises(CertificateRefused):
        open_served(version, other)


def test_a_pipeline_over_a_model_that_is_not_there_says_which_to_convert(
    place: tuple[Settings, Path, dict[str, Any]], tmp_path: Path
) -> None:
    settings, _, _ = place
    spec = tmp_path / "other.yaml"
    spec.write_text(YAML.replace("model: shade", "model: shades"))
    samples(tmp_path / "samples")
    with pytest.raises(SpecInvalid, match="steps.look.model: shades: .*lockstep convert models/shades.yaml"):
        convert(spec, settings=settings, progress=lambda line: None)
