"""What may be opened, over what, and what is shown of an address."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from video_helpers import TB90, raw_pts, read  # type: ignore[import-not-found]

from serving.adapters.video import AddressSource, ReaderOptions
from serving.adapters.video.address import SourcePolicy, redacted, with_secrets
from serving.adapters.video.clips import ClipSpec
from serving.clock import NS_PER_S
from serving.errors import SourceError, SourceNotFound, SourceRefused, SourceStalled, SourceUnreachable
from serving.frames import SourceKind
from serving.media import StreamEnded, StreamOpened

Make = Callable[..., Path]
STEADY = [3000 * n for n in range(60)]
CUT = 1000


def test_secrets_by_name() -> None:
    address = "rtsp://admin:{CAMERA_1_PASSWORD}@10.0.0.2/1"
    assert with_secrets(address, {"CAMERA_1_PASSWORD": "a/b@c"}) == "rtsp://admin:a%2Fb%40c@10.0.0.2/1"
    with pytest.raises(SourceRefused, match="CAMERA_1_PASSWORD is not set") as caught:
        with_secrets(address, {})
    assert "admin" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://u:p@h/1", "rtsp://***@h/1"),
        ("https://h/x?token=abc&a=1", "https://h/x?token=***&a=1"),
        ("http://h/x?a=1&api_key=q", "http://h/x?a=1&api_key=***"),
        ("http://h?token=abc", "http://h?token=***"),
        ("http://h#token=abc", "http://h#token=***"),
        ("http://u:p@h:8080?a=1&token=a@b", "http://***@h:8080?a=1&token=***"),
        ("rtsp://h/user=admin&password=q&channel=1", "rtsp://h/user=admin&password=***&channel=1"),
        ("rtsp://h/user=admin_password=q_channel=1", "rtsp://h/user=admin_password=***"),
        ("rtsp://h/keys/stream?channel=1", "rtsp://h/keys/stream?channel=1"),
        ("rtsp://h/1", "rtsp://h/1"),
        ("a/b.mp4", "a/b.mp4"),
    ],
)
def test_redaction(address: str, shown: str) -> None:
    assert redacted(address) == shown


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1/x", "rtsp://192.168.1.4/x", "http://localhost:9/x", "udp://10.1.1.1:9"]
)
def test_private_addresses_need_the_allow_list(address: str) -> None:
    with pytest.raises(SourceRefused, match="private address"):
        SourcePolicy(operator=False).check(address)
    allowed = ("127.0.0.0/8", "192.168.0.0/16", "10.0.0.0/8", "::1/128")
    SourcePolicy(operator=False, allowed_hosts=allowed).check(address)


def test_files_of_strangers_stay_in_their_folders(tmp_path: Path) -> None:
    policy = SourcePolicy(operator=False, allowed_folders=(tmp_path / "in",))
    policy.check(str(tmp_path / "in" / "a.mp4"))
    for outside in (tmp_path / "a.mp4", tmp_path / "in" / ".." / "a.mp4"):
        with pytest.raises(SourceRefused, match="outside"):
            policy.check(str(outside))


@pytest.mark.parametrize(
    ("root", "target", "good"),
    [
        ("https://h/a.m3u8", "https://h/1.ts", True),
        ("https://h/a.m3u8", "file:///etc/passwd", False),
        ("https://h/a.m3u8", "/etc/passwd", False),
        ("https://h/a.m3u8", "concat:https://h/1.ts", False),
        ("/v/a.m3u8", "/v/1.ts", True),
        ("/v/a.m3u8", "/etc/1.ts", False),
        ("/v/a.m3u8", "http://10.0.0.1/1.ts", False),
    ],
)
def test_what_a_playlist_may_open(root: str, target: str, good: bool) -> None:
    if good:
        SourcePolicy().check_target(root, target)
        return
    with pytest.raises(SourceRefused, match="points at"):
        SourcePolicy().check_target(root, target)


# -- over http --


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files, redirects, ranges, silence; under /cut/ answers that end early, under /dead/ all but the first at once."""

    most: int | None = None  # bytes of this answer

    def do_GET(self) -> None:
        span = self.headers.get("Range", "")
        for prefix in ("/cut", "/dead"):
            if self.path.startswith(f"{prefix}/"):
                self.path = self.path.removeprefix(prefix)
                self.most = 0 if prefix == "/dead" and span != "bytes=0-" else CUT
        if self.path.startswith("/go?"):
            self.send_response(302)
            self.send_header("Location", self.path[4:])
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path == "/silent":
            self.server.stop.wait(20)  # type: ignore[attr-defined]
        elif span and not self.path.startswith("/norange/"):
            self._send_range(int(span.removeprefix("bytes=").rstrip("-")))
        else:
            self.path = self.path.removeprefix("/norange")
            super().do_GET()

    def _send_range(self, start: int) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start:][: self.most])

    def copyfile(self, source: Any, outputfile: Any) -> None:
        outputfile.write(source.read(self.most))

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path)))
    server.stop = threading.Event()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.stop.set()  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()
    thread.join()


def failure(address: str, **options: object) -> SourceError | None:
    try:
        last = read(address, **options)[-1]
    except SourceError as error:
        return error
    return last.error if isinstance(last, StreamEnded) else None


@pytest.mark.parametrize("prefix", ["", "/go?"])
@pytest.mark.parametrize("name", ["a.mp4", "a.ts", "norange/a.ts"])
def test_files_over_http(clip: Make, site: str, prefix: str, name: str) -> None:
    """The MP4's index lies at its end, so it is read by ranges."""
    container = "mp4" if name.endswith("mp4") else "mpegts"
    path = clip(Path(name).name, STEADY, ClipSpec(container, TB90))
    assert raw_pts(read(f"{site}{prefix}/{name}")) == raw_pts(read(path))


@pytest.mark.parametrize("name", ["a.mp4", "a.ts"])
def test_a_connection_that_ends_early_is_made_again_at_that_byte(clip: Make, site: str, name: str) -> None:
    path = clip(name, STEADY, ClipSpec("mp4" if name.endswith("mp4") else "mpegts", TB90))
    assert path.stat().st_size > 2 * CUT
    assert raw_pts(read(f"{site}/cut/{name}")) == raw_pts(read(path))


@pytest.mark.parametrize("prefix", ["cut/norange", "dead"])
def test_a_file_that_is_cut_off_was_not_read_to_its_end(clip: Make, site: str, prefix: str) -> None:
    size = clip("a.ts", STEADY, ClipSpec("mpegts", TB90)).stat().st_size
    error = failure(f"{site}/{prefix}/a.ts")
    assert isinstance(error, SourceUnreachable) and f"ended after {CUT} of {size} bytes" in str(error)


def test_a_live_playlist_tells_its_target_duration(clip: Make, site: str, tmp_path: Path) -> None:
    clip("a.ts", STEADY, ClipSpec("mpegts", TB90))
    head = "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:2,\n"
    (tmp_path / "live.m3u8").write_text(f"{head}a.ts\n")
    (tmp_path / "over.m3u8").write_text(f"{head}a.ts\n#EXT-X-ENDLIST\n")
    (tmp_path / "top.m3u8").write_text("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nlive.m3u8\n")
    for name, kind, segment_ns in (
        ("live", SourceKind.LIVE, 3 * NS_PER_S),
        ("top", SourceKind.LIVE, 3 * NS_PER_S),
        ("over", SourceKind.FILE, 0),
    ):
        reader = AddressSource("cam", f"{site}/{name}.m3u8", ReaderOptions(read_timeout_s=3.0)).connect()
        opened = next(event for event in reader.events() if isinstance(event, StreamOpened))
        reader.close()
        assert (opened.info.kind, opened.info.segment_ns) == (kind, segment_ns), name


def test_hls_over_http(clip: Make, site: str, tmp_path: Path) -> None:
    clip("a.ts", STEADY, ClipSpec("mpegts", TB90))
    head = "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:2,\n"
    (tmp_path / "good.m3u8").write_text(f"{head}a.ts\n#EXT-X-ENDLIST\n")
    assert len(raw_pts(read(f"{site}/good.m3u8"))) == 60
    (tmp_path / "moved.m3u8").write_text(f"{head}/go?/a.ts\n#EXT-X-ENDLIST\n")
    assert len(raw_pts(read(f"{site}/good.m3u8"))) == 60
    for number, target in enumerate((f"file://{tmp_path}/a.ts", f"{tmp_path}/a.ts", f"/go?file://{tmp_path}/a.ts")):
        (tmp_path / f"bad{number}.m3u8").write_text(f"{head}{target}\n#EXT-X-ENDLIST\n")
        assert failure(f"{site}/bad{number}.m3u8") is not None, target


def test_a_redirect_passes_the_same_check(clip: Make, site: str, tmp_path: Path) -> None:
    path = clip("a.ts", STEADY, ClipSpec("mpegts", TB90))
    assert isinstance(failure(f"{site}/go?file://{path}"), SourceRefused)
    stranger = SourcePolicy(operator=False, allowed_hosts=("127.0.0.1/32",))
    assert raw_pts(read(f"{site}/a.ts", policy=stranger)) == raw_pts(read(path))
    assert isinstance(failure(f"{site}/go?http://10.9.9.9/a.ts", policy=stranger), SourceRefused)


def test_nobody_there_nothing_there_and_silence(site: str) -> None:
    assert isinstance(failure(f"{site}/nothing.mp4"), SourceNotFound)
    assert isinstance(failure("http://127.0.0.1:9/a.mp4"), SourceUnreachable)
    assert isinstance(failure(f"{site}/silent", open_timeout_s=0.4, read_timeout_s=0.4), SourceStalled)


def test_a_local_playlist_opens_its_own_folder_only(clip: Make, tmp_path: Path) -> None:
    clip("a.ts", STEADY, ClipSpec("mpegts", TB90))
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "p.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:2,\n../a.ts\n#EXT-X-ENDLIST\n")
    assert failure(str(inner / "p.m3u8")) is not None


def test_errors_do_not_carry_secrets() -> None:
    error = failure("http://user:hunter2@127.0.0.1:9/a.mp4?token=hunter3")
    assert error is not None and "hunter" not in str(error) and error.__cause__ is None
