"""The open-loop load test: arrivals, mix, latency from the intended time, the report, and bad input in one line."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import typer
from loadtest_http import Quiet, serving
from PIL import Image
from typer.testing import CliRunner

from loadtest import arrivals, load, load_figures, load_report, mix, photos, servers
from serving.cli import commands_serving

WORK = {"kind": "classification", "name": "m", "route": "/v1/models/m/infer", "users": 1, "share": 1.0}
PHOTO = mix.Payload("a", __file__, "image/jpeg", True, 1.0)
BAD = mix.Payload("b", __file__, "image/jpeg", False, 1.0)


@contextmanager
def answering(status: int, seconds: float = 0.0) -> Iterator[str]:
    """A server that lists one model and answers every post so, after so many seconds."""

    class Handler(Quiet):
        protocol_version = "HTTP/1.1"

        def _answer(self, code: int, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self._answer(200, b'{"models": [{"name": "m", "task": "classification", "state": "ready"}]}')

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            time.sleep(seconds)
            self._answer(status, b"{}")

    with serving(Handler) as base:
        yield base


def a_run(shots: list[list[float]], phases: list[arrivals.Phase], samples: int = 0) -> load.Run:
    job = load.Job(Path("r"), ("m",), processes=1)
    rows = [(float(i), i * 0.5, 2.0**28) for i in range(samples)]
    facts = {"date": "today", "packages": {"numpy": "2"}}
    return load.Run(job, 10.0, phases, [WORK], [PHOTO, BAD], np.array(shots, float), rows, facts=facts)


def test_arrivals_follow_the_rates_of_their_phases_and_repeat_with_the_seed() -> None:
    phases = [arrivals.flat("a", 50, 40), arrivals.Phase("b", 50, 0, 80)]
    found = arrivals.schedule(phases)
    assert found == arrivals.schedule(phases) and found == sorted(found, key=lambda a: a.at_s)
    for number in (0, 1):
        assert 1800 < sum(a.phase == number for a in found) < 2200
    late = sum(a.at_s > 75 for a in found)  # the ramp's second half: three quarters of its 2000
    assert 1380 < late < 1620
    gaps = np.diff([a.at_s for a in found if a.phase == 0])
    assert 0.9 < gaps.std() / gaps.mean() < 1.1  # Poisson, not a metronome


def test_a_run_without_end_is_refused() -> None:
    with pytest.raises(ValueError, match=r"too large \(at most 3600 s and 100000\)"):
        arrivals.schedule([arrivals.flat("a", 10, 1e6)])


def test_the_mix_holds_readable_pictures_and_the_share_of_bad_input_that_was_asked_for(tmp_path: Path) -> None:
    made = mix.make(photos.from_packages(), tmp_path)
    pictures = {p.name: Image.open(p.path) for p in made if p.good and p.content_type.startswith("image/")}
    assert pictures["jpeg-12mp"].size == (4000, 3000) and pictures["jpeg-progressive"].info.get("progressive")
    assert {p.format for p in pictures.values()} == {"JPEG", "PNG", "WEBP"} and pictures["jpeg-grey"].mode == "L"
    for picture in pictures.values():
        picture.load()
    cut = next(p for p in made if p.name == "bad-cut")
    with pytest.raises(OSError):
        Image.open(io.BytesIO(Path(cut.path).read_bytes())).load()
    for share in (0.0, 0.2, 1.0):
        bad = np.mean([not made[n].good for n in mix.draw(made, 4000, share)])
        assert abs(bad - share) < 0.03


def test_latency_counts_from_the_intended_time_when_every_user_is_busy(tmp_path: Path) -> None:
    rows = [[0.1 * i, 0, 0, 0] for i in range(10)]  # 10 a second at a server that can do 4 a second
    with answering(200, seconds=0.25) as base:
        job = load.Job(tmp_path, ("m",), base, processes=1)
        shots = load._shoot(job, base, [WORK], [PHOTO], rows, 1.0, tmp_path, load.Watch(None))
    assert len(shots) == 10 and set(shots[:, 6]) == {200}
    assert np.allclose(shots[:, 3], [row[0] for row in rows])
    own = shots[:, 5] - shots[:, 4]
    intended = shots[:, 5] - shots[:, 3]
    assert intended[-1] > 10 * 0.25 - 0.9 - 0.05 > own.min()  # the tenth waits for nine before it
    assert intended[-1] - intended[0] > 1.0


def test_several_generators_share_the_arrivals(tmp_path: Path) -> None:
    rows = [[0.02 * i, 0, 0, 0] for i in range(40)]
    with answering(429) as base:
        job = load.Job(tmp_path, ("m",), base, processes=2)
        shots = load._shoot(job, base, [{**WORK, "users": 4}], [PHOTO], rows, 1.0, tmp_path, load.Watch(None))
    assert sorted(shots[:, 3]) == pytest.approx([row[0] for row in rows]) and set(shots[:, 6]) == {429}


def test_each_answer_has_one_outcome() -> None:
    phases = [arrivals.flat("peak", 1, 9)]
    cases = [(0, 200, 0.1), (0, 200, 2.0), (0, 429, 0.1), (0, 504, 1.0), (1, 400, 0.1), (1, 200, 0.1), (0, 400, 0.1),
             (0, 500, 0.1), (0, 0, 0.1)]  # fmt: skip
    run = a_run([[0, 0, body, 0.0, 0.0, took, status] for body, status, took in cases], phases)
    names = [load_figures.OUTCOMES[kind] for kind in load_figures.outcomes(run)]
    assert names == ["good", "late", "rejected", "expired", "bad input refused", *["wrong"] * 3, "no answer"]
    (row,) = load_figures.phases(run)
    assert row.offered == 9 and row.goodput == 1 and row.reject_p99_ms == pytest.approx(100)


def test_goodput_kept_is_that_of_overload_over_the_best_that_was_seen() -> None:
    """Phases of one shape count as their mean, which swings less than the best of them."""
    rates = {"peak": 10, "2x": 20, "peak again": 10, "2x again": 20}
    phases = [arrivals.flat(name, 1, rate) for name, rate in rates.items()]
    shots = [[n, 0, 0, n + 0.1, n + 0.1, n + 0.2, 200] for n, count in enumerate((3, 1, 5, 2)) for _ in range(count)]
    run = a_run(shots, phases)
    assert load_figures.kept(run) == {"2x": 1.5 / 4}
    run.closed = 20.0  # a breakdown at the peak rate itself does not make overload look well
    assert load_figures.kept(run) == {"2x": 1.5 / 20}


def test_the_peak_rate_and_twice_as_much_are_asked_in_turn() -> None:
    names = [phase.name for phase in arrivals.shapes(10, 4) if arrivals.shape_of(phase.name) in ("peak", "2x")]
    assert names == ["peak", "2x", "peak again", "2x again"]
    rates = {phase.name: phase.mean_rate for phase in arrivals.shapes(10, 4)}
    assert [rates[name] for name in names] == [10, 20, 10, 20]


def test_what_the_generators_took_of_the_machine_is_told_apart() -> None:
    """At 2x they use half of the machine more, and goodput falls by a third: the server lost nothing by itself."""
    phases = [arrivals.flat("peak", 10, 10), arrivals.flat("2x", 10, 20)]
    shots = [[n, 0, 0, 10 * n + 0.1, 10 * n + 0.1, 10 * n + 0.2, 200] for n in (0, 1) for _ in range(30 - 10 * n)]
    run = a_run(shots, phases, samples=20)
    assert load_figures.kept_of_rest(a_run(shots, phases)) == {}, "a server that shares no machine with them"
    cores = os.cpu_count() or 1
    for second in range(20):
        before = run.sent[-1][1] if run.sent else 0.0
        run.sent.append((float(second), before + cores * (0.25 if second <= 10 else 0.5)))
    assert load_figures.kept(run) == {"2x": pytest.approx(2 / 3)}
    assert load_figures.kept_of_rest(run) == {"2x": pytest.approx(1.0)}
    run.closed, run.closed_cores = 6.0, 0.25 * cores  # what the closed loop reached counts too
    assert load_figures.kept_of_rest(run) == {"2x": pytest.approx(0.5)}


def test_a_report_of_one_sample_opens_and_is_written_once(tmp_path: Path) -> None:
    run = a_run([[0, 0, 0, 0.1, 0.1, 0.2, 200]], [arrivals.flat("steady", 2, 1)], samples=1)
    target = load_report.write(run, tmp_path, "load-1")
    text = target.read_text()
    assert text.count("<svg") == 1 and "http://" not in text.replace("http://www.w3.org", "").replace(
        "http://purl.org", "").replace("http://creativecommons.org", "")  # fmt: skip
    assert "<td>steady</td>" in text and "nan" not in text.split("<h2>Phases")[1]
    with pytest.raises(FileExistsError):
        load_report.write(run, tmp_path, "load-1")


def command(*words: str, bench: str = "load") -> list[str]:
    """The lines of an ended benchmark, which must have failed without a traceback."""
    app = typer.Typer()
    commands_serving.register(app)
    ended = CliRunner().invoke(app, ["bench", bench, *words])
    assert ended.exit_code == 1 and "Traceback" not in ended.output
    return ended.output.strip().splitlines()


def test_a_dead_server_is_one_line(tmp_path: Path) -> None:
    base = f"http://127.0.0.1:{servers.free_port()}"
    (line,) = command("--against", base, "--output", str(tmp_path))
    assert line.startswith(f"error[load_test]: {base}: no Lockstep gateway answers there") and "lockstep serve" in line


def test_what_keeps_any_benchmark_from_running_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("OHA", raising=False)
    (line,) = command("http://127.0.0.1:9/x", str(tmp_path), "--peak", "5", bench="overload")
    assert line.startswith("error[bench_overload]: oha is not installed")


def test_a_model_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with answering(200) as base:
        (line,) = command("other", "--against", base, "--output", str(tmp_path))
    assert "not ready there: ['other']; it has ['m']" in line


def test_an_unwritable_results_folder_is_one_line_before_anything_is_sent(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (line,) = command("--against", "http://127.0.0.1:9", "--output", str(tmp_path / "file" / "results"))
    assert "no results can be written there (Not a directory)" in line
