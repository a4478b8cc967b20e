"""`run_streams` with certified models: in process, through Triton with equal results, with roi, mask and transport."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from stream_helpers import make_clip  # type: ignore[import-not-found]
from triton_support import colours_model, redness_model, shared_triton

from serving.adapters.video.clips import ClipSpec
from serving.bundle import ModelBundle
from serving.engines import open_engine
from serving.errors import NotFound, ParameterInvalid, SourceRefused, StorageFailed
from serving.preprocess.jpeg import JpegCodec
from serving.served_model import ServedModel
from serving.streams.main import RunOptions, run_streams
from serving.streams.models import OpenedModel, in_process, through_triton
from serving.streams.outputs import TextOutput

VOLATILE = ("timings_ms", "attempt")


@pytest.fixture
def open_model(tmp_path: Path) -> Callable[[str], OpenedModel]:
    made = {"colours": colours_model, "redness": redness_model}

    def opened(name: str) -> OpenedModel:
        if name not in made:
            raise NotFound(f"no model {name!r}")
        folder = tmp_path / "repository" / name / "1"
        if not folder.exists():
            made[name](tmp_path / "repository")
        return in_process(_load(folder))

    return opened


def _load(folder: Path) -> ServedModel:
    bundle = ModelBundle.load(folder)
    return ServedModel(bundle, open_engine(bundle.engine, folder, 1, bundle.precision))


@pytest.fixture
def red_clip(tmp_path: Path) -> Path:
    from fractions import Fraction

    return Path(make_clip(tmp_path / "red.mp4", [3000 * n for n in range(30)], ClipSpec("mp4", Fraction(1, 90_000))))


def lines(path: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in VOLATILE} for line in found]


def test_everything_at_once(red_clip: Path, tmp_path: Path, open_model: Callable[[str], OpenedModel]) -> None:
    options = RunOptions(
        (f"gate={red_clip}", str(red_clip)), ("redness", "colours"), "bytetrack", tmp_path / "o.mp4",
        tmp_path / "r.jsonl", tmp_path / "t.vtt", tmp_path / "s.png", every=2,
    )  # fmt: skip
    summary = run_streams(options, open_model)
    assert summary.ok and [s.source_id for s in summary.sources] == ["gate", "red"]
    for name in ("gate", "red"):
        found = lines(tmp_path / f"r-{name}.jsonl")
        assert len(found) == 60 and {line["model"] for line in found} == {"redness", "colours"}
        assert len(found[0]["certificate_id"]) == 12 and found[0]["image"] == {"width": 96, "height": 64}
        assert (tmp_path / f"t-{name}.vtt").read_text().count("-->") == 30
        assert cv2.imread(str(tmp_path / f"s-{name}.png")) is not None
        assert (tmp_path / f"o-{name}.mp4").stat().st_size > 1000
    document = json.loads(json.dumps(summary.to_document()))
    assert document["ok"] and document["sources"][0]["balances"]["redness"]["reasons"] == {"not_sampled": 15}
    assert "accepted 30 = results 15 + dropped 15 + dead 0: balanced" in summary.text()


def test_roi_and_mask_are_in_source_pixels(
    red_clip: Path, tmp_path: Path, open_model: Callable[[str], OpenedModel]
) -> None:
    base = RunOptions((str(red_clip),), ("redness",), results=tmp_path / "r.jsonl", parameters={"score_threshold": "0"})
    run_streams(replace(base, roi=("40,10,80,50",)), open_model)
    assert lines(tmp_path / "r.jsonl")[9]["detections"][0]["xyxy"] == [40.0, 10.0, 60.0, 50.0]
    run_streams(base, open_model)
    plain = lines(tmp_path / "r.jsonl")[20]["detections"][0]["confidence"]
    mask = np.zeros((64, 96), np.uint8)
    mask[:, :48] = 255
    cv2.imwrite(str(tmp_path / "m.png"), mask)
    run_streams(replace(base, mask=(str(tmp_path / "m.png"),)), open_model)
    assert lines(tmp_path / "r.jsonl")[20]["detections"][0]["confidence"] == pytest.approx(plain / 2, rel=0.1)
    with pytest.raises(ParameterInvalid, match="inside 96x64"):
        run_streams(replace(base, roi=("40,10,800,50",)), open_model)


def test_each_source_has_its_own_region(
    red_clip: Path, tmp_path: Path, open_model: Callable[[str], OpenedModel]
) -> None:
    sources = tuple(f"{name}={red_clip}" for name in ("gate", "yard", "hall"))
    base = RunOptions(sources, ("redness",), results=tmp_path / "r.jsonl", parameters={"score_threshold": "0"})
    run_streams(replace(base, roi=("gate=40,10,80,50", "0,0,96,32")), open_model)
    corners = {n: lines(tmp_path / f"r-{n}.jsonl")[9]["detections"][0]["xyxy"][:2] for n in ("gate", "yard", "hall")}
    assert corners == {"gate": [40.0, 10.0], "yard": [0.0, 0.0], "hall": [0.0, 0.0]}
    for roi, words in (
        (("gat=40,10,80,50",), "no source named gat"),
        (("gate=0,0,9,9", "gate=0,0,8,8"), "given twice for gate"),
        (("0,0,9,9", "0,0,8,8"), "given twice"),
        (("gate=",), "expected a value"),
    ):
        with pytest.raises(ParameterInvalid, match=words):
            run_streams(replace(base, roi=roi), open_model)


def test_workers_share_the_sources_and_change_nothing(
    red_clip: Path, tmp_path: Path, open_model: Callable[[str], OpenedModel]
) -> None:
    """An engine for each worker; what a source gives does not depend on how many there are."""
    opened: list[str] = []

    def counted(name: str) -> OpenedModel:
        opened.append(name)
        return open_model(name)

    found = []
    for workers in (1, 2):
        base = RunOptions(
            tuple(f"{name}={red_clip}" for name in "abc"), ("redness", "colours"), "bytetrack",
            results=tmp_path / "r.jsonl", workers=workers, parameters={"score_threshold": "0"},
        )  # fmt: skip
        assert run_streams(base, counted).ok and len(opened) == 2 * workers
        opened.clear()
        found.append([_untimed(tmp_path / f"r-{name}.jsonl") for name in "abc"])
    assert found[0] == found[1] and len(found[0][0]) == 60


def _untimed(path: Path) -> list[dict[str, object]]:
    return [{key: value for key, value in line.items() if key != "timings_ms"} for line in lines(path)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("broken", ["output", "results", "webvtt", "events", "presence"])
def test_an_output_that_fails_ends_its_source_alone(
    red_clip: Path, tmp_path: Path, open_model: Callable[[str], OpenedModel], broken: str
) -> None:
    """A full disk: the account still balances, and the other source is mixed to its end."""
    files = {"output": "o.mp4", "results": "r.jsonl", "webvtt": "t.vtt", "events": "e.jsonl", "presence": "p.json"}
    full = {"output": ".o-bad.mp4.part"}.get(broken, files[broken].replace(".", "-bad."))
    (tmp_path / full).symlink_to("/dev/full")
    options = RunOptions(
        (f"bad={red_clip}", f"good={red_clip}"), ("redness",), "bytetrack", parameters={"score_threshold": "0"},
        **{name: tmp_path / file for name, file in files.items()},  # type: ignore[arg-type]
    )  # fmt: skip
    if broken == "webvtt":  # its first line is written before anything is read
        with pytest.raises(StorageFailed, match=r"t-bad\.vtt: cannot be written: No space left"):
            run_streams(options, open_model)
        return
    bad, good = run_streams(options, open_model).sources
    assert bad.error_code == StorageFailed.code and full.strip(".").removesuffix(".part") in bad.error
    assert bad.balanced and good.ok and good.shown == 30 and good.outputs[0].frames == 30
    assert len(lines(tmp_path / "r-good.jsonl")) == good.balances["redness"].accepted == 30
    if broken != "results":
        assert len(lines(tmp_path / "r-bad.jsonl")) == bad.balances["redness"].accepted
    assert (tmp_path / "o-bad.mp4").exists() == (broken != "output")


def test_two_runs_do_not_write_one_file(
    red_clip: Path, tmp_path: Path, open_model: Callable[[str], OpenedModel]
) -> None:
    base = RunOptions((str(red_clip),), ("redness",), results=tmp_path / "r.jsonl")
    run_streams(base, open_model)
    other = TextOutput(tmp_path / "t.vtt")
    other.write("theirs\n")
    with pytest.raises(StorageFailed, match=r"t\.vtt: is being written already"):
        run_streams(replace(base, webvtt=tmp_path / "t.vtt"), open_model)
    with pytest.raises(StorageFailed, match="already"):
        run_streams(replace(base, webvtt=tmp_path / "r.jsonl"), open_model)
    assert (tmp_path / "t.vtt").read_text() == "theirs\n"
    other.close()
    assert run_streams(replace(base, webvtt=tmp_path / "t.vtt"), open_model).ok


def test_an_unknown_scenario_is_the_operators_mistake(red_clip: Path, open_model: Callable[[str], OpenedModel]) -> None:
    with pytest.raises(ParameterInvalid, match="scenario"):
        run_streams(RunOptions((str(red_clip),), ("redness",), scenario="night"), open_model)


def test_what_cannot_be_done_is_said_before_the_run(
    red_clip: Path, tmp_path: Path, open_model: Callable[[str], OpenedModel]
) -> None:
    with pytest.raises(NotFound):
        run_streams(RunOptions((str(red_clip),), ("nothing",)), open_model)
    with pytest.raises(StorageFailed, match="not a folder that can be written to"):
        run_streams(RunOptions((str(red_clip),), ("redness",), output=tmp_path / "no" / "deeper" / "o.mp4"), open_model)
    with pytest.raises(StorageFailed, match="cannot be written"):
        run_streams(RunOptions((str(red_clip),), ("redness",), results=tmp_path / "no" / "r.jsonl"), open_model)
    before = red_clip.read_bytes()
    for overwritten in ({"output": red_clip}, {"results": red_clip}):
        with pytest.raises(ParameterInvalid, match="is a source of this run"):
            run_streams(RunOptions((str(red_clip),), ("redness",), **overwritten), open_model)  # type: ignore[arg-type]
    assert red_clip.read_bytes() == before
    unset = run_streams(RunOptions(("rtsp://u:{NO_SUCH_SECRET_X}@127.0.0.1/1",), ("redness",)), open_model)
    assert unset.sources[0].error_code == SourceRefused.code and "NO_SUCH_SECRET_X" in unset.sources[0].error


def test_transport_by_jpeg_moves_pixels_little(
    red_clip: Path, tmp_path: Path, open_model: Callable[[str], OpenedModel]
) -> None:
    base = RunOptions((str(red_clip),), ("redness",), results=tmp_path / "r.jsonl", parameters={"score_threshold": "0"})
    run_streams(base, open_model)
    plain = [line["detections"][0]["confidence"] for line in lines(tmp_path / "r.jsonl")]
    run_streams(replace(base, transport="jpeg"), open_model)
    moved = [line["detections"][0]["confidence"] for line in lines(tmp_path / "r.jsonl")]
    assert np.abs(np.array(plain) - moved).max() < 0.02 and len(moved) == 30
    run_streams(replace(base, transport="jpeg", codec=JpegCodec(1)), open_model)
    assert [line["detections"][0]["confidence"] for line in lines(tmp_path / "r.jsonl")] != moved


def test_hls_output_has_a_side_channel(
    red_clip: Path, tmp_path: Path, open_model: Callable[[str], OpenedModel]
) -> None:
    summary = run_streams(RunOptions((str(red_clip),), ("redness",), output=tmp_path / "hls"), open_model)
    assert summary.ok and summary.sources[0].outputs[0].path.endswith("index.m3u8")
    table = json.loads((tmp_path / "hls" / "segment-00000.json").read_text())
    assert [f["key"]["pts_ns"] for f in table["frames"]][:2] == [0, 33_333_333]
    assert table["frames"][29]["overlays"][0]["pipeline"] == "redness"


@pytest.mark.needs("triton")
@pytest.mark.parametrize("transport", ["", "jpeg"])
@pytest.mark.parametrize("model", ["colours", "redness"])
def test_through_triton_the_results_are_the_same(
    request: pytest.FixtureRequest, red_clip: Path, tmp_path: Path, model: str, transport: str
) -> None:
    triton = shared_triton(request)
    folder = triton._repository / model / "1"
    parameters = {"score_threshold": "0"} if model == "redness" else {}
    options = RunOptions(
        (str(red_clip),), (model,), results=tmp_path / "r.jsonl", transport=transport, parameters=parameters
    )
    assert run_streams(options, lambda name: in_process(_load(folder))).ok
    here = lines(tmp_path / "r.jsonl")
    url = f"grpc://{triton.grpc_url}"
    assert run_streams(options, lambda name: through_triton(ModelBundle.load(folder), url)).ok
    assert lines(tmp_path / "r.jsonl") == here and len(here) == 30


@pytest.mark.needs("triton")
def test_an_answer_under_another_certificate_is_none(
    request: pytest.FixtureRequest, red_clip: Path, tmp_path: Path
) -> None:
    """The version was certified again while Triton serves it: labels, thresholds or weights may be other ones."""
    triton = shared_triton(request)
    served = ModelBundle.load(triton._repository / "redness" / "1")
    options = RunOptions((str(red_clip),), ("redness",), results=tmp_path / "r.jsonl")
    url = f"grpc://{triton.grpc_url}"
    for certificate_id, reasons in ((served.certificate_id, {}), ("0123456789ab", {"model_unavailable": 30})):
        checked = replace(served, certificate_id=certificate_id)
        summary = run_streams(options, lambda name, checked=checked: through_triton(checked, url))
        (source,) = summary.sources
        assert ("expected answers under certificate" in summary.text()) is bool(reasons)
        assert source.balanced and dict(source.balances["redness"].reasons) == reasons
