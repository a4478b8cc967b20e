"""HTTP for libav, opened by us: every address, redirect and playlist target passes the policy before a byte is read.

libav follows redirects and opens playlist entries on its own; handing it our files instead is the one place where all
of them can be checked. Progressive files are sought by range requests (RFC 9110, section 14).
"""

from __future__ import annotations

import http.client
import io
import re
import ssl
from base64 import b64encode
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

from serving.adapters.video.address import HTTP, SourcePolicy, path_of, redacted, scheme_of
from serving.errors import SourceError, SourceNotFound, SourceRefused, SourceStalled, SourceUnreachable

HEAD_BYTES = 4096  # of a playlist, in which its target duration is looked for
MAX_SEGMENT_S = 30  # a longer target duration is no reason to hold more pictures
MAX_REDIRECTS = 5
_WRITE = 2  # AVIO_FLAG_WRITE
_REDIRECTS = (301, 302, 303, 307, 308)


class HttpFile:
    """A readable, seekable (where the server takes ranges) file over one HTTP connection.

    `timeout_s` bounds every connect and read. Errors are SourceError classes with redacted addresses.
    """

    def __init__(self, root: str, address: str, policy: SourcePolicy, timeout_s: float) -> None:
        self.name = redacted(address)
        self._root, self._address = root, address
        self._policy, self._timeout_s = policy, timeout_s
        self.closed = False
        self._position = 0
        self._size: int | None = None
        self._ranges = False
        self._connection: http.client.HTTPConnection | None = None
        self._response: http.client.HTTPResponse | None = None
        self._open_at(0)

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes, as soon as there are any; b'' at the end.

        A connection that ends before the file does is made once more at that byte, where the server takes ranges.
        """
        data = self._read(size)
        if not data and self._is_cut_off(size) and self._ranges:
            self._drop()
            data = self._read(size)
        if not data and self._is_cut_off(size):
            raise SourceUnreachable(f"{self.name}: ended after {self._position} of {self._size} bytes")
        return data

    def seekable(self) -> bool:
        """The server takes byte ranges and said how long the file is."""
        return self._ranges and self._size is not None

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; the next read asks for that range."""
        if not self.seekable() or self._size is None:
            raise io.UnsupportedOperation("this server does not take byte ranges")
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset != self._position:
            self._drop()
            self._position = base + offset
        return self._position

    def tell(self) -> int:
        """Offset of the next byte."""
        return self._position

    def close(self) -> None:
        """End the connection."""
        self.closed = True
        self._drop()

    def _is_cut_off(self, size: int) -> bool:
        return size != 0 and self._size is not None and self._position < self._size

    def _read(self, size: int) -> bytes:
        if self._response is None:
            self._open_at(self._position)
        assert self._response is not None
        try:
            data = self._response.read1(size) if size >= 0 else self._response.read()
        except TimeoutError as error:
            raise SourceStalled(f"{self.name}: no data for {self._timeout_s:g} s") from error
        except (OSError, http.client.HTTPException) as error:
            raise SourceUnreachable(f"{self.name}: the connection broke: {type(error).__name__}") from error
        self._position += len(data)
        return data

    def _drop(self) -> None:
        if self._response is not None:
            self._response.close()
        if self._connection is not None:
            self._connection.close()
        self._connection = self._response = None

    def _open_at(self, offset: int) -> None:
        if self._size is not None and offset >= self._size:
            self._response = _Empty()  # type: ignore[assignment]
            return
        address = self._address
        for _ in range(MAX_REDIRECTS + 1):
            response = self._request(address, offset)
            if response.status not in _REDIRECTS:
                self._accept(response, offset)
                return
            target = urljoin(address, response.headers.get("Location", ""))
            response.close()
            self._drop()
            self._policy.check_target(self._root, target)
            address = target
        raise SourceRefused(f"{self.name}: more than {MAX_REDIRECTS} redirects")

    def _accept(self, response: http.client.HTTPResponse, offset: int) -> None:
        self._response = response
        try:
            self._check_status(response, offset)
        except SourceError:
            self._drop()
            raise
        length = response.headers.get("Content-Length")
        if response.status == 206:
            self._ranges = True
            total = response.headers.get("Content-Range", "").rpartition("/")[2]
            self._size = int(total) if total.isdigit() else None
        elif length and length.isdigit():
            self._size = int(length)

    def _check_status(self, response: http.client.HTTPResponse, offset: int) -> None:
        if response.status in (404, 410):
            raise SourceNotFound(f"{self.name}: HTTP {response.status}")
        if response.status not in (200, 206) or (offset and response.status != 206):
            raise SourceUnreachable(f"{self.name}: HTTP {response.status}, expected 200 or 206")

    def _request(self, address: str, offset: int) -> http.client.HTTPResponse:
        parts = urlsplit(address)
        if parts.scheme not in HTTP or not parts.hostname:
            raise SourceRefused(f"{redacted(address)}: expected an http or https address")
        checked = self._policy.addresses_of(address)
        self._connection = _connection(parts.scheme, parts.hostname, parts.port, checked, self._timeout_s)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = {"Range": f"bytes={offset}-", "User-Agent": "lockstep", "Accept-Encoding": "identity"}
        if parts.username:
            headers["Authorization"] = _basic(parts.username, parts.password or "")
        try:
            self._connection.request("GET", path, headers=headers)
            return self._connection.getresponse()
        except TimeoutError as error:
            self._drop()
            raise SourceStalled(f"{redacted(address)}: no answer within {self._timeout_s:g} s") from error
        except (OSError, http.client.HTTPException) as error:
            self._drop()
            raise SourceUnreachable(f"{redacted(address)}: {_plain(error)}") from error


class _Empty:
    """What there is to read behind the end."""

    def read1(self, size: int) -> bytes:
        return b""

    def read(self) -> bytes:
        return b""

    def close(self) -> None:
        """Nothing to close."""


class _Playlist:
    """An HLS playlist on its way to libav; its target duration (RFC 8216, section 4.3.3.1) is told on the way."""

    def __init__(self, file: HttpFile, tell: Callable[[int], None]) -> None:
        self._file, self._tell = file, tell
        self._head = b""

    def read(self, size: int = -1) -> bytes:
        """The next bytes, as `HttpFile.read`."""
        data = self._file.read(size)
        if len(self._head) < HEAD_BYTES:
            self._head += data[: HEAD_BYTES - len(self._head)]
            if found := re.search(rb"#EXT-X-TARGETDURATION:(\d{1,6})\s", self._head):
                self._tell(int(found[1]))
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class Opener:
    """The `io_open` hook of one container: (address, flags, options) -> file. Refuses what the policy refuses.

    error: what was refused last; libav may swallow it and say that the data is invalid. segment_s: the longest target
    duration of the playlists that were read, 0 where there was none.
    """

    def __init__(self, root: str, policy: SourcePolicy, timeout_s: float) -> None:
        self.error: SourceError | None = None
        self.segment_s = 0
        self._root, self._policy, self._timeout_s = root, policy, timeout_s
        self._files: list[Any] = []

    def close(self) -> None:
        """Close what libav left open."""
        for file in self._files:
            file.close()

    def __call__(self, address: str, flags: int, options: dict[str, str]) -> Any:
        """Called by libav for everything it wants to open."""
        try:
            file = self._open(address, flags)
        except SourceError as error:
            self.error = error
            raise
        self._files = [known for known in self._files if not known.closed] + [file]
        return file

    def _open(self, address: str, flags: int) -> Any:
        if flags & _WRITE:
            raise SourceRefused(f"{redacted(address)}: a source is never written to")
        if address != self._root:
            self._policy.check_target(self._root, address)
        if scheme_of(address) not in HTTP:
            return path_of(address).open("rb")
        file = HttpFile(self._root, address, self._policy, self._timeout_s)
        return _Playlist(file, self._segments) if is_playlist(address) else file

    def _segments(self, seconds: int) -> None:
        self.segment_s = max(self.segment_s, min(seconds, MAX_SEGMENT_S))


def _connection(
    scheme: str, host: str, port: int | None, checked: tuple[str, ...], timeout_s: float
) -> http.client.HTTPConnection:
    """A connection to the checked address, so that a second look-up of the name cannot lead elsewhere."""
    if scheme == "http":
        connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    else:
        connection = http.client.HTTPSConnection(host, port, timeout=timeout_s, context=ssl.create_default_context())
    if checked:
        connect = connection._create_connection  # type: ignore[attr-defined]
        connection._create_connection = lambda address, *rest: connect((checked[0], address[1]), *rest)  # type: ignore[attr-defined]
    return connection


def is_playlist(address: str) -> bool:
    """By its name, as libav goes by it."""
    return address.partition("?")[0].lower().endswith((".m3u8", ".m3u"))


def _basic(user: str, password: str) -> str:
    return "Basic " + b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()


def _plain(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
