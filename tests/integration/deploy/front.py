"""nginx as deploy/nginx configures it, as a process: the shipped files, with other addresses and folders."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from loadtest.servers import free_port

SHIPPED = Path(__file__).resolve().parents[3] / "deploy" / "nginx"
NGINX = shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])) or "nginx"


def prepared(folder: Path, gateways: Sequence[str], port: int = 8080, grafana: str = "127.0.0.1:3000") -> Path:
    """nginx.conf below `folder`. Changed are addresses and folders, and `resolve`, which Debian's nginx is too old for.

    gateways: host:port of each; they take the place of the one name that stands for all.
    """
    shutil.copytree(SHIPPED, folder, dirs_exist_ok=True)
    main = folder / "nginx.conf"
    text = main.read_text("utf-8").replace("/tmp/", f"{folder}/").replace("/dev/stdout", f"{folder}/access.log")
    text = text.replace("/dev/stderr", f"{folder}/error.log")
    main.write_text(("user root;\n" if os.geteuid() == 0 else "") + text, "utf-8")
    (folder / "listen.conf").write_text(f"listen 127.0.0.1:{port};\n", "utf-8")
    upstreams = folder / "upstreams.conf"
    lines = []
    for line in upstreams.read_text("utf-8").splitlines():
        shown = line.replace(" resolve", "").replace("grafana:3000", grafana)
        one = "gateway:8080" in shown
        lines += [shown.replace("gateway:8080", address) for address in gateways] if one else [shown]
    upstreams.write_text("\n".join(lines), "utf-8")
    return main


def checked(main: Path) -> str:
    """What `nginx -t` says; "" where it takes the files."""
    done = subprocess.run([NGINX, "-t", "-q", "-c", str(main)], capture_output=True, text=True, timeout=30, check=False)
    return done.stderr if done.returncode else ""


@contextlib.contextmanager
def front(folder: Path, gateways: Sequence[str], grafana: str = "127.0.0.1:3000") -> Iterator[str]:
    """The address of a running front."""
    port = free_port()
    main = prepared(folder, gateways, port, grafana)
    assert checked(main) == ""
    process = subprocess.Popen([NGINX, "-c", str(main), "-g", "daemon off;"], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while not _listens(port):
            assert process.poll() is None and time.monotonic() < deadline, (folder / "error.log").read_text()
            time.sleep(0.02)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
