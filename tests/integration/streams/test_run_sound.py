"""`run_streams` with a model that hears: a moment has the same time as in the pictures, and as in the whole file.

The clip turns white exactly while a tone sounds, its first picture is shown a second after its sound began, and the
sound has a rate that the model does not hear. So a wrong origin, a lost sample or a wrong rate moves the event off the
picture.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import av
import numpy as np
import pytest

from serving.errors import ParameterInvalid
from serving.served_model import ServedModel
from serving.streams.main import RunOptions, run_streams
from serving.streams.models import OpenedModel, in_process
from serving.streams.summary import RunSummary
from serving.testing.stub_bundles import make_bundle
from serving.types import Array, EngineInfo, InferRequest, InferResponse, TensorSpec

RATE, FPS, BEGIN_S = 44_100, 25, 1
WHITE_S = (2.0, 3.2)  # by the container's clock
NS = 1_000_000_000
SOUND = {"window": 512, "context": 64, "state": [{"input": "state", "output": "state_out", "shape": [1]}]}


class Engine:
    """Arrays in, arrays out, by a function."""

    def __init__(self, run: Callable[[Mapping[str, Array]], dict[str, Array]]) -> None:
        self.run = run

    @property
    def info(self) -> EngineInfo:
        return EngineInfo("fake", "1", "cpu", "f32", (), (), "given", 1)

    def close(self) -> None:
        """Nothing to give back."""


def hears(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Loud windows; the state counts all of them, and a wrong count is heard as nothing."""
    loud = np.abs(inputs["window"][:, 64:]).mean(axis=1, keepdims=True) > 0.05
    return {"p": np.where(loud, 0.9, 0.0).astype(np.float32), "state_out": inputs["state"] + 1}


def sees(inputs: Mapping[str, Array]) -> dict[str, Array]:
    bright = next(iter(inputs.values())).mean(axis=(1, 2, 3)) > 0.5
    return {"scores": np.stack([~bright, bright, bright & False], axis=1).astype(np.float32)}


@pytest.fixture
def open_model(tmp_path: Path) -> Callable[[str], OpenedModel]:
    def opened(name: str) -> OpenedModel:
        folder = tmp_path / f"repository-{uuid4()}"
        if name == "eyes":
            rest: dict[str, Any] = {"outputs": ["scores"], "options": {"activation": "none"}}
            bundle = make_bundle(folder, name, "classification", preprocess={"width": 32, "height": 32}, **rest)
            object.__setattr__(bundle, "engine_inputs", (TensorSpec("x", "FP32", (3, 32, 32)),))
            return in_process(ServedModel(bundle, Engine(sees)))
        sound = SOUND | ({"hop": 256} if name == "others" else {})
        bundle = make_bundle(folder, name, "audio", sound=sound, labels=["loud"], outputs=["p", "state_out"])
        return in_process(ServedModel(bundle, Engine(hears)))

    return opened


def tone(begin_s: float, seconds: float) -> Array:
    at = begin_s + np.arange(round(seconds * RATE)) / RATE
    loud = (at >= WHITE_S[0]) & (at < WHITE_S[1])
    return np.where(loud, 0.4 * np.sin(2 * np.pi * 440 * at), 0).astype(np.float32)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return make_sound_clip(tmp_path / "clip.mkv", tone(0, 5.3))


def make_sound_clip(path: Path, samples: Array, pictures: int = 100) -> Path:
    with av.open(str(path), "w") as out:
        video: Any = out.add_stream("mpeg4", rate=FPS, options={"qscale": "2"})
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        video.codec_context.time_base = Fraction(1, FPS)
        sound: Any = out.add_stream("flac", rate=RATE, layout="stereo")
        for n in range(BEGIN_S * FPS, BEGIN_S * FPS + pictures):
            level = 230 if WHITE_S[0] <= n / FPS < WHITE_S[1] else 20
            picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), level, np.uint8), "rgb24")
            picture.pts, picture.time_base = n, Fraction(1, FPS)
            out.mux(video.encode(picture))
        out.mux(video.encode(None))
        whole = np.clip(np.round(samples * 32767), -32768, 32767).astype(np.int16)
        for start in range(0, len(whole), 4096):
            part = np.repeat(whole[start : start + 4096, None], 2, axis=1).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(part, "s16", "stereo")
            frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
            out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    return path


def ran(clip: Path, open_model: Callable[[str], OpenedModel], *models: str, **options: Any) -> RunSummary:
    return run_streams(RunOptions((str(clip),), models, **options), open_model)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def last_words(rows: list[dict[str, Any]]) -> list[tuple[int, int]]:
    """Begin and end of every event, as it was told last."""
    events = {event["event_id"]: event for row in rows for event in row["events"]}
    return [(event["start_pts_ns"], event["end_pts_ns"]) for event in events.values()]


def test_an_event_is_heard_at_the_time_of_the_pictures_it_belongs_to(
    clip: Path, tmp_path: Path, open_model: Callable[[str], OpenedModel]
) -> None:
    summary = ran(clip, open_model, "eyes", "ears", results=tmp_path / "r.jsonl", every=1)
    assert [s.source_id for s in summary.sources] == ["clip", "clip-sound"] and not any(
        s.error for s in summary.sources
    )
    assert all(balance.holds for s in summary.sources for balance in s.balances.values())
    assert [list(s.balances) for s in summary.sources] == [["eyes"], ["ears"]]
    seen, heard = lines(tmp_path / "r.jsonl"), lines(tmp_path / "r-clip-sound.jsonl")
    white = [row["pts_ns"] for row in seen if row["classes"][0]["class_id"] == 1]
    assert (white[0], white[-1]) == (1 * NS, round(2.16 * NS))
    ((start, end),) = last_words(heard)
    assert start == pytest.approx(white[0], abs=0.064 * NS)  # pad_ms and a window
    assert end == pytest.approx(white[-1] + NS / FPS, abs=0.064 * NS)
    pieces = [(row["sound"]["start_pts_ns"], row["sound"]["end_pts_ns"]) for row in heard]
    assert [row["pts_ns"] for row in heard] == [begin for begin, _ in pieces] and pieces[0][0] == 0
    assert all(a[1] == b[0] for a, b in pairwise(pieces))
    assert pieces[-1][1] == pytest.approx(4.3 * NS, abs=0.033 * NS)  # the sound goes on after the pictures end
    assert all("image" not in row and row["outcome"] == "result" for row in heard)


def test_pieces_of_a_stream_say_what_the_whole_file_says(
    tmp_path: Path, open_model: Callable[[str], OpenedModel]
) -> None:
    from tests.unit.preprocess.test_sound import file_of

    path = tmp_path / "talk.wav"
    path.write_bytes(file_of(tone(0, 4.0), RATE))
    summary = ran(path, open_model, "ears", results=tmp_path / "r.jsonl", every=5)
    assert summary.sources[0].balances["ears"].results == len(lines(tmp_path / "r.jsonl")) == 8
    (whole,) = open_model("ears").infer([InferRequest(encoded=path.read_bytes())])
    assert isinstance(whole, InferResponse)
    result: Any = whole.result
    assert last_words(lines(tmp_path / "r.jsonl")) == list(zip(result.start_ns, result.end_ns, strict=True))


def test_a_picture_source_alone_is_as_it_was_and_silence_is_a_normal_answer(
    tmp_path: Path, open_model: Callable[[str], OpenedModel]
) -> None:
    clip = make_sound_clip(tmp_path / "still.mkv", np.zeros(RATE, np.float32), pictures=30)
    summary = ran(clip, open_model, "ears", results=tmp_path / "r.jsonl")
    assert not summary.sources[0].error and summary.sources[0].balances["ears"].holds
    assert last_words(lines(tmp_path / "r.jsonl")) == []
    assert [s.source_id for s in ran(clip, open_model, "eyes").sources] == ["still"]


def test_a_clip_without_sound_says_so_and_its_pictures_go_on(
    tmp_path: Path, open_model: Callable[[str], OpenedModel]
) -> None:
    path = tmp_path / "mute.mkv"
    with av.open(str(make_sound_clip(tmp_path / "a.mkv", tone(0, 1), 30))) as given, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(given.streams.video[0]):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    seen, heard = ran(path, open_model, "eyes", "ears").sources
    assert seen.balances["eyes"].results == 30 and not seen.error
    assert "no sound in it" in heard.error and heard.error_code == "source_invalid"


def test_what_cannot_be_asked_is_refused(clip: Path, tmp_path: Path, open_model: Callable[[str], OpenedModel]) -> None:
    with pytest.raises(ParameterInvalid, match="--output: expected a model that looks at pictures"):
        ran(clip, open_model, "ears", output=tmp_path / "mixed.mp4")
    with pytest.raises(ParameterInvalid, match="ears and others hear other windows"):
        ran(clip, open_model, "ears", "others")
