"""Files through the whole of `run`: every frame accounted for, every measured box on its own frame, nothing lost."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import pytest
from stream_helpers import (  # type: ignore[import-not-found]
    TB90,
    Ran,
    box_of,
    level_model,
    picture_level,
    pipeline,
    run_one,
)

from serving.adapters.video import AddressSource, clips
from serving.adapters.video.clips import ClipSpec
from serving.errors import EngineFailed, ServingError, StorageFailed, Unavailable
from serving.frames import Origin
from serving.media import PictureSeen, StreamOpened
from serving.streams.run import RunSettings
from serving.testing.ts_surgery import Stamps, restamp
from serving.tracking.bytetrack import ByteTrack
from serving.types import InferRequest, InferResponse

Make = Callable[..., Path]
VFR = [int(sum(range(n)) * 37 + 900 * n) for n in range(40)]
KINDS = {
    "steady": ("c.mp4", [3000 * n for n in range(40)], ClipSpec("mp4", TB90)),
    "pyramid": ("c.mp4", [3000 * n for n in range(40)], ClipSpec("mp4", TB90, clips.X264_PYRAMID)),
    "vfr": ("c.mp4", VFR, ClipSpec("mp4", TB90)),
    "wrap": ("c.ts", [(1 << 33) - 60_000 + 3000 * n for n in range(40)], ClipSpec("mpegts", TB90)),
    "flv": ("c.flv", [33 * n for n in range(40)], ClipSpec("flv", Fraction(1, 1000))),
}


def numbers(ran: Ran) -> list[int]:
    """The picture number of each shown frame, by its grey level."""
    return [round((float(s.frame.picture.rgb().mean()) - 20) / 5) for s in ran.shown]


def wrong_boxes(ran: Ran) -> list[tuple[int, list[float]]]:
    """Measured boxes that are not those of the picture they are drawn on."""
    out = []
    for number, shown in zip(numbers(ran), ran.shown, strict=True):
        for overlay in shown.overlays:
            for box, origin in zip(overlay.boxes.xyxy.tolist(), overlay.origin.tolist(), strict=True):
                if origin == Origin.MEASURED.value and abs(box[0] - box_of(picture_level(number))[0]) > 0.6:
                    out.append((number, box))
    return out


def source_seconds(path: Path) -> list[Fraction]:
    events = list(AddressSource("s", str(path)).connect().events())
    base = next(e.info.time_base for e in events if isinstance(e, StreamOpened))
    return [e.raw_pts * base for e in events if isinstance(e, PictureSeen)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_frame_is_shown_once_with_its_own_box(clip: Make, tmp_path: Path, kind: str) -> None:
    path = clip(*KINDS[kind])
    ran = run_one(path, output=tmp_path / "o.mp4")
    assert ran.summary.ok and numbers(ran) == list(range(40))
    assert wrong_boxes(ran) == [] and ran.source.drawn == {"measured": 40}
    balance = ran.source.balances["level"]
    assert (balance.accepted, balance.results, balance.dropped, balance.dead, balance.in_flight) == (40, 40, 0, 0, 0)
    found, wanted = source_seconds(tmp_path / "o.mp4"), source_seconds(path)
    if kind == "wrap":
        wanted = [t if t > 1000 else t + Fraction(1 << 33, 90_000) for t in wanted]
    assert found == wanted


def test_results_have_a_line_for_each_frame_in_order(clip: Make) -> None:
    ran = run_one(clip(), [pipeline("a"), pipeline("b")], RunSettings(every=4))
    assert [(line["frame_seq"], line["pipeline"]) for line in ran.lines] == [(n, p) for n in range(40) for p in "ab"]
    kinds = {(line["outcome"], line["reason"], line["frame_seq"] % 4 == 0) for line in ran.lines}
    assert kinds == {("result", None, True), ("dropped", "not_sampled", False)}
    assert [line["pts_ns"] for line in ran.lines[::2]] == [(2 * n * 10**9 + 30) // 60 for n in range(40)]
    assert ran.lines[0]["image"] == {"width": 96, "height": 64}


def test_every_nth_is_analysed_and_the_rest_is_filled(clip: Make) -> None:
    tracked = pipeline(new_tracker=lambda: ByteTrack())
    ran = run_one(clip(), [tracked], RunSettings(every=3))
    assert wrong_boxes(ran) == []
    drawn = ran.source.drawn
    assert drawn["measured"] == 14 and drawn["interpolated"] >= 20
    for number, shown in zip(numbers(ran), ran.shown, strict=True):
        for box, origin in zip(shown.overlays[0].boxes.xyxy, shown.overlays[0].origin, strict=True):
            if origin == Origin.INTERPOLATED.value:
                assert abs(float(box[0]) - box_of(picture_level(number))[0]) < 0.7, "a line is filled exactly"


def test_the_same_input_gives_the_same_output(clip: Make) -> None:
    path = clip()
    tracked = pipeline(new_tracker=lambda: ByteTrack())
    first, second = (run_one(path, [tracked], RunSettings(every=2)) for _ in range(2))
    drop = ("timings_ms",)
    plain = [[{k: v for k, v in line.items() if k not in drop} for line in r.lines] for r in (first, second)]
    assert plain[0] == plain[1]
    boxes = [[(s.frame.key, s.overlays[0].boxes.xyxy.tolist()) for s in r.shown] for r in (first, second)]
    assert boxes[0] == boxes[1]


def test_several_sources_and_models(clip: Make, tmp_path: Path) -> None:
    import io

    from serving.streams.drawing import Drawing
    from serving.streams.run import run
    from serving.streams.source_run import SourceJob

    paths = [clip(f"{n}.mp4") for n in "abc"]
    files = [io.StringIO() for _ in paths]
    jobs = [
        SourceJob(AddressSource(p.stem, str(p)), Drawing({}), lambda stream: [], results=f)
        for p, f in zip(paths, files, strict=True)
    ]
    summary = run(jobs, [pipeline("one"), pipeline("two")])
    assert summary.ok and [s.source_id for s in summary.sources] == ["a", "b", "c"]
    assert [s.balances["two"].results for s in summary.sources] == [40, 40, 40]
    assert [len(f.getvalue().splitlines()) for f in files] == [80, 80, 80]


def test_missing_and_repeated_stamps_are_dropped_with_a_reason(clip: Make) -> None:
    path = clip("m.ts", [3000 * n for n in range(40)], ClipSpec("mpegts", TB90))
    path.write_bytes(restamp(path.read_bytes(), lambda n, s: Stamps(None, None) if n in (10, 11) else s))
    ran = run_one(path)
    assert ran.summary.ok and dict(ran.source.balances["level"].reasons) == {"no_pts": 2}
    assert [line["reason"] for line in ran.lines].count("no_pts") == 2 and len(ran.lines) == 40
    assert wrong_boxes(ran) == []


# -- models that misbehave --


def test_errors_are_tried_three_times_and_then_a_dead_letter(clip: Make) -> None:
    calls = []

    def broken(requests: Sequence[InferRequest]) -> list[InferResponse | ServingError]:
        calls.append(1)
        return [EngineFailed("no")] if len(calls) <= 6 else level_model(requests)

    ran = run_one(clip(), [pipeline(infer=broken)])
    assert dict(ran.source.balances["level"].reasons) == {"retry_exhausted": 2} and ran.summary.ok
    assert [line["outcome"] for line in ran.lines[:3]] == ["dead_letter", "dead_letter", "result"]


def test_a_model_that_is_down_and_one_that_answers_twice(clip: Make) -> None:
    def down(requests: Sequence[InferRequest]) -> list[InferResponse | ServingError]:
        raise Unavailable("down")

    def twice(requests: Sequence[InferRequest]) -> list[InferResponse | ServingError]:
        return level_model([*requests, *requests])

    ran = run_one(clip(), [pipeline("down", down), pipeline("twice", twice), pipeline()])
    balances = ran.source.balances
    assert dict(balances["down"].reasons) == {"model_unavailable": 40} and balances["level"].results == 40
    assert dict(balances["twice"].reasons) == {"retry_exhausted": 40} and ran.summary.ok
    assert ran.source.missing == {"down": 40, "twice": 40}


def test_a_model_that_never_answers_ends_the_worker_and_not_the_run(clip: Make) -> None:
    import threading

    released = threading.Event()

    def stuck(requests: Sequence[InferRequest]) -> list[InferResponse | ServingError]:
        released.wait(3)
        return level_model(requests)

    ran = run_one(clip(), [pipeline(infer=stuck)], RunSettings(inference_timeout_s=0.5))
    released.set()
    reasons = dict(ran.source.balances["level"].reasons)
    assert ran.summary.ok and reasons == {"poison": 1, "model_unavailable": 39}


# -- bad input --


def test_what_cannot_be_opened_is_said(tmp_path: Path) -> None:
    (tmp_path / "g.mp4").write_bytes(b"garbage" * 100)
    for name, code in (("g.mp4", "source_invalid"), ("none.mp4", "source_not_found")):
        ran = run_one(tmp_path / name)
        assert not ran.summary.ok and ran.source.error_code == code and ran.lines == []
        assert ran.source.balanced


def test_a_cut_off_file_is_accounted_for(clip: Make) -> None:
    path = clip("t.ts", [3000 * n for n in range(200)], ClipSpec("mpegts", TB90))
    path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2])
    ran = run_one(path)
    assert ran.source.balanced and 50 < ran.source.shown < 200 and wrong_boxes(ran) == []


def test_one_bad_source_costs_the_others_nothing(clip: Make, tmp_path: Path) -> None:
    from serving.streams.drawing import Drawing
    from serving.streams.run import run
    from serving.streams.source_run import SourceJob

    (tmp_path / "bad.mp4").write_bytes(b"x" * 1000)
    addresses = {"bad": tmp_path / "bad.mp4", "good": clip()}
    jobs = [SourceJob(AddressSource(n, str(p)), Drawing({}), lambda stream: []) for n, p in addresses.items()]
    bad, good = run(jobs, [pipeline()]).sources
    assert bad.error_code == "source_invalid" and good.ok and good.balances["level"].results == 40


def test_a_thousand_frames_a_second_lose_nothing_in_a_file(clip: Make) -> None:
    """Files are not shed; a rate over the declared one drops with overload, and all is accounted for."""
    path = clip("f.mp4", [90 * n for n in range(300)], ClipSpec("mp4", TB90, clips.X264_NO_B, Fraction(1000)))
    ran = run_one(path)
    assert ran.source.balanced and ran.source.balances["level"].accepted == 300 and wrong_boxes_level(ran)


def wrong_boxes_level(ran: Ran) -> bool:
    """Grey levels repeat in long clips, so compare levels."""
    for shown in ran.shown:
        level = float(shown.frame.picture.rgb().mean())
        for box in shown.overlays[0].boxes.xyxy.tolist():
            if abs(box[0] - box_of(level)[0]) > 0.6:
                return False
    return bool(ran.shown)


def test_two_runs_on_one_output(clip: Make, tmp_path: Path) -> None:
    from serving.adapters.video import Mp4Writer
    from serving.media import OutputStream

    other = Mp4Writer(tmp_path / "o.mp4", OutputStream(96, 64, TB90))
    source = run_one(clip(), output=tmp_path / "o.mp4").source
    assert source.error_code == StorageFailed.code and "another run is writing it" in source.error and source.balanced
    other.abandon()


def test_a_change_of_size_is_an_epoch(clip: Make, tmp_path: Path) -> None:
    first = clip("s1.ts", None, ClipSpec("mpegts", TB90))
    second = clip("s2.ts", [3000 * (40 + n) for n in range(40)], ClipSpec("mpegts", TB90), size=(128, 96))
    first.write_bytes(first.read_bytes() + second.read_bytes())
    ran = run_one(first, [pipeline(new_tracker=lambda: ByteTrack())], output=tmp_path / "o.mp4")
    assert ran.source.epochs == 2 and ran.source.balances["level"].results == 80
    assert [line["epoch"] for line in ran.lines] == [1] * 40 + [2] * 40
    sizes = [(96, 64)] * 40 + [(128, 96)] * 40
    assert [(line["image"]["width"], line["image"]["height"]) for line in ran.lines] == sizes
    stamps = source_seconds(tmp_path / "o.mp4")
    assert len(stamps) == 80 and stamps == sorted(set(stamps))


def test_metrics_equal_the_ledger(clip: Make) -> None:
    import urllib.request

    from serving.metrics import Metrics
    from serving.streams.drawing import Drawing
    from serving.streams.metrics_page import metrics_page
    from serving.streams.observe import StreamMetrics
    from serving.streams.run import run
    from serving.streams.source_run import SourceJob

    observer = StreamMetrics(Metrics())
    job = SourceJob(AddressSource("a", str(clip())), Drawing({}), lambda stream: [])
    run([job], [pipeline("one")], RunSettings(every=4), observer=observer)
    with metrics_page(observer.metrics, 0) as port:
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    keys = 'source="a"'
    named = {k: float(v) for k, v in values.items() if k.startswith("lockstep_stream_outcomes_total")}
    assert sum(named.values()) == float(values[f"lockstep_stream_accepted_total{{{keys}}}"]) == 40
    dropped = 'lockstep_stream_outcomes_total{outcome="dropped",pipeline="one",reason="not_sampled",source="a"}'
    assert named[dropped] == 30 and values[f"lockstep_stream_epochs_total{{{keys}}}"] == "1.0"
    assert values[f"lockstep_stream_latency_seconds_count{{{keys}}}"] == "40.0"
    assert values[f"lockstep_stream_pictures_held{{{keys}}}"] == "0.0"


@pytest.mark.needs("ffmpeg")
@pytest.mark.parametrize("kind", ["steady", "vfr"])
def test_a_trimmed_phone_clip_loses_no_frame(clip: Make, tmp_path: Path, kind: str) -> None:
    """Stream-copied from the middle of a GOP: an edit list hides what lies before, the first picture is no keyframe."""
    name, pts, _ = KINDS[kind]
    longer = [*pts, *(pts[-1] + 3000 * (n + 1) for n in range(60))]
    source = clip(name, longer, ClipSpec("mp4", TB90, "bframes=2:b-adapt=0:scenecut=0:keyint=30"))
    trimmed = tmp_path / "trimmed.mp4"
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-ss",
        "1.2",
        "-i",
        source,
        "-c",
        "copy",
        "-metadata:s:v:0",
        "rotate=90",
        trimmed,
    ]
    subprocess.run(command, check=True)
    ran = run_one(trimmed, output=tmp_path / "o.mp4")
    balance = ran.source.balances["level"]
    assert ran.summary.ok and balance.accepted == balance.results == len(_ffprobe(trimmed))
    assert ran.source.discarded > 0 and (ran.source.width, ran.source.height) == (64, 96), "turned as it is shown"
    assert _ffprobe(tmp_path / "o.mp4") == _ffprobe(trimmed)


def _ffprobe(path: Path) -> list[Fraction]:
    """PTS of every picture as exact seconds."""
    show = ["-show_entries", "stream=time_base:frame=pts", "-of", "json"]
    command = ["ffprobe", "-v", "error", "-select_streams", "v", *show, path]
    found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    base = Fraction(found["streams"][0]["time_base"])
    return [frame["pts"] * base for frame in found["frames"]]
