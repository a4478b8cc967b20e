"""Forks processes of roles from one that has imported everything: a start in milliseconds instead of seconds.

Reads one JSON document a line: {"id": ..., "log": ..., "spec": {...}}; answers {"id", "pid"} and, when a child has
ended, {"id", "exit"} (negative: the signal). It has one thread and no client of anything, so forking is safe.
"""

from __future__ import annotations

import json
import os
import select
import sys
import traceback
from typing import Any

import serving.adapters.redis  # noqa: F401 - for its children: a role imports it late
from serving.testing.faults import role


def main() -> None:
    """Until its input ends."""
    role.end_with_parent()
    children: dict[int, str] = {}
    buffer = b""
    while True:
        if select.select([0], [], [], 0.05)[0]:
            more = os.read(0, 65536)
            if not more:
                return
            buffer += more
        while b"\n" in buffer:
            line, _, buffer = buffer.partition(b"\n")
            order = json.loads(line)
            pid = os.fork()
            if pid == 0:
                _child(order)
            children[pid] = order["id"]
            _answer({"id": order["id"], "pid": pid})
        while children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            _answer({"id": children.pop(pid), "exit": os.waitstatus_to_exitcode(status)})


def _child(order: dict[str, Any]) -> None:
    """Never returns."""
    code = 1
    try:
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = role.run(order["spec"])
    except BaseException:  # noqa: BLE001 - the process ends here whatever it is
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _answer(document: dict[str, Any]) -> None:
    os.write(1, json.dumps(document).encode() + b"\n")


if __name__ == "__main__":
    main()
