"""Live sources served by ffmpeg: MPEG-TS over UDP, FLV over RTMP, and a sender that dies for 12 seconds."""

from __future__ import annotations

import itertools
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from stream_helpers import Ran, Shown, pipeline, run_one  # type: ignore[import-not-found]

from serving.adapters.video import AddressSource, ReaderOptions
from serving.adapters.video.clips import X264_IBBP, ClipSpec, write_clip
from serving.free_ports import UDP, free_port
from serving.streams.ingest import ReconnectRules
from serving.streams.run import RunSettings
from serving.testing.sync_code import linear, picture, read_own
from serving.testing.sync_play import OneTrack, read_picture

pytestmark = pytest.mark.needs("ffmpeg")


@pytest.fixture(scope="module")
def coded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six seconds, keyframes each half second so that a receiver may come in late."""
    from fractions import Fraction

    path = tmp_path_factory.mktemp("net") / "coded.mp4"
    x264 = X264_IBBP.replace("keyint=9999", "keyint=15")
    pictures = ((picture(n, 1, linear(n / 30)), 3000 * n) for n in range(180))
    write_clip(path, ClipSpec("mp4", Fraction(1, 90_000), x264), pictures)
    return path


@contextmanager
def sender(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["ffmpeg", "-v", "error", "-re", *arguments], stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_until(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def is_listening(port: int) -> bool:
    """By the kernel's table: the sender takes one connection only, so asking the port itself would use it up."""
    rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(row.split()[1].endswith(f":{port:04X}") and row.split()[3] == "0A" for row in rows)


def live(address: str, lease_s: float, read_s: float = 2.0, shown: Shown | None = None) -> Ran:
    source = AddressSource("cam", address, ReaderOptions(open_timeout_s=lease_s, read_timeout_s=read_s))
    tracked = pipeline("code", read_picture, new_tracker=lambda: OneTrack(1))
    settings = RunSettings(rules=ReconnectRules(first_s=0.1, most_s=0.5, lease_s=lease_s))
    return run_one(source, [tracked], settings, shown=shown)


def assert_aligned(ran: Ran, at_least: int) -> None:
    """Every measured box carries, as class_id, the number in the pixels of the picture it is drawn on."""
    measured = 0
    for shown in ran.shown:
        own = read_own(shown.frame.picture.rgb())
        for overlay in shown.overlays:
            for class_id, origin in zip(overlay.boxes.class_id.tolist(), overlay.origin.tolist(), strict=True):
                if origin == 0:
                    measured += 1
                    assert own is not None and class_id == own[1]
    balance = ran.source.balances["code"]
    assert ran.source.balanced and len(ran.lines) == balance.accepted
    assert measured >= at_least, (measured, balance, ran.source)


def test_udp_ends_by_its_lease(coded: Path) -> None:
    port = free_port(UDP)
    address = f"udp://127.0.0.1:{port}"
    with sender("-i", str(coded), "-c", "copy", "-f", "mpegts", f"{address}?pkt_size=1316"):
        ran = live(address, lease_s=8.0)
    assert ran.summary.ok and ran.source.epochs == 1
    assert_aligned(ran, 100)


def test_rtmp_pulled_from_a_listening_sender(coded: Path) -> None:
    port = free_port()
    address = f"rtmp://127.0.0.1:{port}/live/cam"
    with sender("-i", str(coded), "-c", "copy", "-f", "flv", "-listen", "1", address):
        wait_until(lambda: is_listening(port))
        ran = live(address, lease_s=4.0)
    assert ran.source.balanced and ran.source.epochs == 1
    assert_aligned(ran, 120)


@pytest.mark.faults
def test_a_sender_that_dies_for_twelve_seconds_is_one_epoch_more(coded: Path) -> None:
    port = free_port(UDP)
    address = f"udp://127.0.0.1:{port}"
    found: list[Ran] = []
    seen = Shown()
    reading = threading.Thread(target=lambda: found.append(live(address, lease_s=20.0, shown=seen)))
    send = ("-i", str(coded), "-c", "copy", "-f", "mpegts", f"{address}?pkt_size=1316")
    reading.start()
    with sender(*send):
        wait_until(lambda: len(seen.frames) >= 60)
    time.sleep(12)
    with sender(*send) as second:
        second.wait(30)
    reading.join(60)
    ran = found[0]
    assert ran.source.epochs == 2 and ran.summary.ok
    assert_aligned(ran, 100)
    outs = [shown.out_pts_ns for shown in ran.shown]
    assert outs == sorted(set(outs)) and max(b - a for a, b in itertools.pairwise(outs)) > 10e9
