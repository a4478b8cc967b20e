"""Who may reach the gateway. There are no keys yet, so it binds loopback unless the operator says otherwise."""

from __future__ import annotations

import ipaddress
import socket

from serving.config import ConfigInvalid


def check_bind(host: str, allow_unauthenticated: bool, setting: str = "host") -> None:
    """Raise ConfigInvalid for an address that others can reach, unless that is allowed by name."""
    if allow_unauthenticated or is_loopback(host):
        return
    raise ConfigInvalid(
        f"{setting} {host or '(any)'}: others could reach it there, and it has no keys",
        hint="bind 127.0.0.1 behind a proxy that authenticates, or give --allow-unauthenticated",
    )


def is_loopback(host: str) -> bool:
    """Whether every address that `host` stands for is loopback; an empty or unknown name is not."""
    if not host:
        return False
    try:
        found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return bool(found) and all(ipaddress.ip_address(str(address[4][0])).is_loopback for address in found)
