"""Triton's log lines as ours: level, source, message; tables and noise that mean nothing on a CPU are left out."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass

logger = logging.getLogger("lockstep.triton")

# `2026-11-22T08:59:41Z I 7631 model_lifecycle.cc:839] "text"`, and `I1122 09:06:16.249048 13119 pb_stub.cc:2145]  text`
_ISO8601 = re.compile(r"^\d{4}-\d\d-\d\dT[\d:.]+Z ([IWEFV]) \d+ (\S+?):\d+\] ?(.*)$", re.DOTALL)
_DEFAULT = re.compile(r"^([IWEFV])\d{4} [\d:.]+ \d+ (\S+?):\d+\] ?(.*)$", re.DOTALL)
_LEVELS = {"I": "info", "W": "warning", "E": "error", "F": "error", "V": "debug"}
# Said at every start on a machine without a GPU.
_CPU_NOISE = (
    "CUDA driver version is insufficient",
    "CudaDriverHelper",
    "CUDA memory pool disabled",
    "pinned system memory",
    "create stream",
)
_TABLE = ("+--", "|")
UNHEALTHY_STUB = "is not healthy"


@dataclass(frozen=True, slots=True)
class LogLine:
    """level: debug, info, warning or error; source: Triton's file, `stub` for what a model printed, or `supervisor`."""

    level: str
    source: str
    message: str


def translate(text: str) -> LogLine | None:
    """One line of Triton's output; None for empty lines and for its start-up tables."""
    text = text.rstrip("\n")
    if not text.strip() or text.startswith(_TABLE):
        return None
    match = _ISO8601.match(text) or _DEFAULT.match(text)
    if match is None:
        return LogLine("info", "stub", text.strip())
    level, source, message = _LEVELS[match[1]], match[2].removesuffix(".cc"), _unquoted(match[3].strip())
    if not message:
        return None
    if any(noise in message for noise in _CPU_NOISE):
        level = "debug"
    return LogLine(level, source, message)


def _unquoted(message: str) -> str:
    if message.startswith('"') and message.endswith('"') and len(message) > 1:
        try:
            return str(json.loads(message, strict=False))
        except ValueError:
            return message[1:-1]
    return message


def log(line: LogLine) -> None:
    """To the logger `lockstep.triton`, with `source` as a field."""
    logger.log(getattr(logging, line.level.upper()), "%s", line.message, extra={"source": line.source})
