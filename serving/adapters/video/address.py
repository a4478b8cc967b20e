"""Addresses of sources: which schemes, hosts, folders and codecs are allowed, secrets by name, redaction.

A path or address on the command line is the operator's own; one that came over the network is held to
`allowed_folders` and, for private addresses, to `allowed_hosts`. What a playlist or a redirect opens passes the same
check, and a network playlist never opens a file.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from serving.errors import SourceRefused, SourceUnreachable

FILE = "file"
HTTP = ("http", "https")
# scheme -> the protocols libav may open below it
PROTOCOLS: Mapping[str, str] = {
    FILE: "file",
    "http": "http,https,tcp,tls",
    "https": "http,https,tcp,tls",
    "rtsp": "rtsp,rtp,tcp,tls",
    "rtsps": "rtsp,rtsps,rtp,tcp,tls",
    "rtmp": "rtmp,tcp",
    "rtmps": "rtmps,rtmp,tcp,tls",
    "udp": "udp",
    "srt": "srt",
}
LIVE_SCHEMES = frozenset({"rtsp", "rtsps", "rtmp", "rtmps", "udp", "srt"})
CODECS = frozenset(
    {"h264", "hevc", "mpeg4", "mpeg2video", "mpeg1video", "mjpeg", "vp8", "vp9", "av1", "libdav1d", "libvpx"}
    | {"libvpx-vp9", "png", "webp", "bmp", "rawvideo", "flv", "msmpeg4", "msmpeg4v2", "wmv2", "prores", "dvvideo"}
)
AUDIO_CODECS = frozenset({"aac", "mp3float", "mp3", "opus", "ac3", "flac", "vorbis"})
FORMATS = (
    "mov,mp4,matroska,webm,mpegts,flv,live_flv,hls,rtsp,rtp,sdp,avi,mjpeg,h264,hevc,m4v,mpeg,ogg,asf,image2,"
    "png_pipe,jpeg_pipe,webp_pipe,bmp_pipe"
)
_SECRET_NAME = re.compile(r"\{([A-Z][A-Z0-9_]{0,63})\}")
_SECRET_VALUE = re.compile(r"(?i)((?:token|key|pass|pwd|secret|sig|auth)[^=&#/?;]*=)[^&#]+")


def scheme_of(address: str) -> str:
    """The address's scheme in lower case; `file` for a plain path."""
    head, mark, _ = address.partition("://")
    return head.lower() if mark and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.\-]*", head) else FILE


def path_of(address: str) -> Path:
    """The path of a `file` address."""
    return Path(address.partition("://")[2] if address.lower().startswith("file://") else address)


def with_secrets(address: str, secrets: Mapping[str, str]) -> str:
    """`{CAMERA_1_PASSWORD}` replaced by its percent-encoded value. SourceRefused names a secret that is not set."""

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in secrets:
            raise SourceRefused(f"{redacted(address)}: secret {name} is not set", hint=f"export {name}=...")
        return quote(secrets[name], safe="")

    return _SECRET_NAME.sub(value, address)


def redacted(address: str) -> str:
    """The address as it may be shown: without user, password and secret values in path and query."""
    if scheme_of(address) == FILE:
        return address
    head, rest = address.split("://", 1)
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    host = authority.rpartition("@")
    shown = f"***@{host[2]}" if host[1] else authority
    return f"{head}://{shown}" + _SECRET_VALUE.sub(r"\1***", rest[len(authority) :])


@dataclass(frozen=True, slots=True)
class SourcePolicy:
    """What may be opened. operator: the address was typed by who runs the program, so any host and folder will do."""

    operator: bool = True
    allowed_folders: tuple[Path, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    codecs: frozenset[str] = CODECS

    def check(self, address: str) -> None:
        """SourceRefused unless this address may be opened as a source."""
        scheme = scheme_of(address)
        if scheme not in PROTOCOLS:
            raise SourceRefused(
                f"{redacted(address)}: scheme {scheme} is not allowed", hint=f"allowed: {', '.join(sorted(PROTOCOLS))}"
            )
        if scheme == FILE:
            self._check_folder(path_of(address))
        else:
            self.addresses_of(address)

    def check_target(self, root: str, target: str) -> None:
        """SourceRefused unless something opened from `root` (a playlist, a redirect) may open `target`."""
        scheme, root_scheme = scheme_of(target), scheme_of(root)
        what = f"{redacted(root)} points at {redacted(target)}"
        if root_scheme == FILE:
            inside = scheme == FILE and path_of(target).resolve().is_relative_to(path_of(root).resolve().parent)
            if not inside:
                raise SourceRefused(f"{what}: a local playlist may only open files of its own folder")
        elif scheme not in HTTP:
            raise SourceRefused(f"{what}: a network source may only open http and https")
        else:
            self.addresses_of(target)

    def addresses_of(self, address: str) -> tuple[str, ...]:
        """The host's IP addresses, all of them checked; () where the operator gave the address."""
        if self.operator:
            return ()
        parts = urlsplit(address)
        host = parts.hostname or ""
        try:
            found = tuple(dict.fromkeys(str(entry[4][0]) for entry in socket.getaddrinfo(host, parts.port or 80)))
        except (OSError, UnicodeError, ValueError) as error:
            raise SourceUnreachable(f"{redacted(address)}: host {host!r} cannot be resolved") from error
        for text in found:
            self._check_ip(address, host, text)
        return found

    def _check_ip(self, address: str, host: str, text: str) -> None:
        ip = ipaddress.ip_address(text.partition("%")[0])
        if ip.is_global and not ip.is_multicast:
            return
        for allowed in self.allowed_hosts:
            if allowed == host or (_is_network(allowed) and ip in ipaddress.ip_network(allowed, strict=False)):
                return
        raise SourceRefused(
            f"{redacted(address)}: {text} is a private address",
            hint="add the host or its network to sources_allowed_hosts",
        )

    def _check_folder(self, path: Path) -> None:
        if self.operator:
            return
        real = path.resolve()
        if not any(real.is_relative_to(folder.resolve()) for folder in self.allowed_folders):
            raise SourceRefused(f"{path}: outside sources_allowed_folders", hint="name the folder in the setting")


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True
