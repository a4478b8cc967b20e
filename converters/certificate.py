"""The certificate: what was proven, with which tools, on which machine. JSON beside the engine, never edited.

`certificate_id` is the first 12 hex digits of the file's SHA-256 (serving.bundle reads it the same way).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from converters.parity import StageRow, first_failed
from converters.rows_facts import NO_LABELS, NO_SOURCE
from converters.rows_preprocess import NO_TRAINING_SIDE

Verdict = Literal["passed", "failed"]
NO_TRITON = "no Triton on this machine"
NO_DEVICE = "no device"
NO_BOXES = "no sample has a box that is sure enough to be compared"
TOOLS = ("torch", "torchvision", "onnx", "onnxscript", "onnxslim", "onnxruntime", "openvino", "tensorrt-rtx-cu13",
         "tensorrt", "numpy", "opencv-python-headless", "pillow", "simplejpeg", "lockstep-serving")  # fmt: skip
ISA = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_bf16",
    "amx_int8",
    "neon",
    "sve",
)

# Rows that may stay not_run: stage -> (how the reason begins, whether a shipped model may have it so).
# docs/certificate.md gives the why of each line; everything else that was not run blocks the version.
MAY_BE_NOT_RUN: Mapping[str, tuple[tuple[str, bool], ...]] = {
    "preprocess": ((NO_TRAINING_SIDE, False), ("task raw", True)),
    "preprocess_fast": (("not asked for", True),),
    "labels": ((NO_SOURCE, True),),
    "constants": ((NO_SOURCE, True),),
    "engine_tensorrt_rtx": ((NO_DEVICE, True),),
    "engine_tensorrt": ((NO_DEVICE, True),),
    "server": ((NO_TRITON, False), ("not asked", True)),
    "gateway": ((NO_TRITON, False), ("task raw", True), ("not asked", True)),
    "transport": (("no pictures", True),),
    "expected_score": ((NO_LABELS, True), ("no expected score", True)),
    "memory": (("no staging server ran", False),),
}


@dataclass(frozen=True, slots=True)
class Subject:
    """What the certificate is about, and everything it records besides the rows."""

    model: str
    version: int
    target: str
    engine: str
    precision: str
    shipped: bool
    weak: bool
    limit: int | None
    content_sha256: str
    manifest_sha256: str
    checkpoint_sha256: str
    spec_sha256: str
    load_report: Mapping[str, Any] = field(default_factory=dict)
    dtypes: Mapping[str, Any] = field(default_factory=dict)
    samples: Sequence[Mapping[str, Any]] = ()
    peak_rss_bytes: int = 0
    notes: Sequence[str] = ()
    conversion: Mapping[str, Any] = field(default_factory=dict)


def certificate(subject: Subject, rows: Sequence[StageRow], created: datetime | None = None) -> dict[str, Any]:
    """The whole document. `created` is UTC now unless given."""
    blockers = what_blocks(rows, subject.shipped, subject.weak, subject.target)
    unserved = any(row.status == "not_run" and row.reason.startswith(NO_TRITON) for row in rows)
    weak = subject.weak or unserved or bool(without_boxes(rows))
    document = {
        "schema": 1,
        "model": subject.model,
        "version": subject.version,
        "target": subject.target,
        "created": (created or datetime.now(UTC)).isoformat(timespec="seconds"),
        "verdict": "failed" if blockers else "passed",
        "blockers": blockers,
        "weak": weak,
        "statement": statement(rows, blockers, subject),
        "engine": {"name": subject.engine, "precision": subject.precision},
        "manifest_sha256": subject.manifest_sha256,
        "checkpoint_sha256": subject.checkpoint_sha256,
        "spec_sha256": subject.spec_sha256,
        "content_sha256": subject.content_sha256,
        "rows": [row.to_json() for row in rows],
        "load_report": dict(subject.load_report),
        "dtypes": dict(subject.dtypes),
        "conversion": dict(subject.conversion),
        "samples": {"count": len(subject.samples), "limit": subject.limit, "files": list(subject.samples)},
        "memory": {"peak_rss_bytes": subject.peak_rss_bytes},
        "notes": list(subject.notes),
        "tools": tools(),
        "machine": machine(),
    }
    as_written: dict[str, Any] = json.loads(encode(document))
    return as_written


def what_blocks(rows: Sequence[StageRow], shipped: bool, weak: bool, target: str) -> list[str]:
    """Why the version may not be served, first failure first; empty: it may."""
    blockers = [f"{row.stage}: {row.reason}" for row in rows if row.status == "failed"]
    for row in rows:
        if row.status == "not_run" and not _may_stay(row, shipped, target):
            blockers.append(f"{row.stage}: not run: {row.reason}")
    if not rows:
        blockers.append("no rows")
    if weak and shipped:
        blockers.append("weak: a shipped model needs at least 32 samples")
    if shipped and (empty := without_boxes(rows)):
        blockers.append(f"weak: {NO_BOXES} ({', '.join(empty)}); a shipped model needs samples that show something")
    return blockers


def without_boxes(rows: Sequence[StageRow]) -> list[str]:
    """Stages that passed because there was no box to compare: they say nothing of the decisions."""
    return [row.stage for row in rows if row.status == "passed" and row.figures.get("boxes") == 0]


def statement(rows: Sequence[StageRow], blockers: Sequence[str], subject: Subject) -> str:
    """One sentence for people: what is proven and what is not."""
    bad = first_failed(rows)
    if bad is not None:
        return f"failed at {bad.stage}: {bad.reason}"
    if blockers:
        return f"not servable: {'; '.join(blockers)}"
    by_stage = {row.stage: row for row in rows}
    scored = by_stage.get("expected_score")
    count = len(subject.samples)
    if scored is not None and scored.status == "passed":
        figures = ", ".join(f"{side} {value}" for side, value in scored.figures.items())
        said = f"agreement proven on {count} samples, expected score reached ({figures})"
    else:
        said = f"agreement proven on {count} samples, correctness not: {scored.reason if scored else NO_LABELS}"
    unproven = [row.stage for row in rows if row.status == "not_run" and row.reason.startswith(NO_TRITON)]
    said += f"; not proven through {' and '.join(unproven)} ({NO_TRITON})" if unproven else ""
    loosened = [row.stage for row in rows if row.loosened]
    said += f"; loosened gates: {', '.join(loosened)}" if loosened else ""
    empty = without_boxes(rows)
    said += f"; weak: {NO_BOXES} ({', '.join(empty)})" if empty else ""
    return said + (f"; weak: fewer than 32 samples ({count})" if subject.weak else "")


def encode(document: Mapping[str, Any]) -> bytes:
    """The file's bytes; NaN is refused, as JSON has none."""
    return json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False).encode() + b"\n"


def certificate_id(data: bytes) -> str:
    """12 hex digits."""
    return hashlib.sha256(data).hexdigest()[:12]


def tools() -> dict[str, str]:
    """Versions of what took part, read from the installed packages; Python and the C library too."""
    found = {"python": platform.python_version(), "libc": " ".join(platform.libc_ver())}
    for name in TOOLS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, Any]:
    """CPU model, the instruction sets that change results, cores, kernel. Nothing that names the host."""
    text = cpuinfo.read_text("utf-8") if cpuinfo.is_file() else ""
    flags = set(" ".join(re.findall(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)[:1]).split())
    model = re.findall(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    return {
        "cpu": model[0].strip() if model else platform.machine(),
        "cores": len(re.findall(r"^processor\s*:", text, re.MULTILINE)),
        "isa": [name for name in ISA if name in flags],
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def _may_stay(row: StageRow, shipped: bool, target: str) -> bool:
    if row.reason.startswith(NO_DEVICE) and target != "cpu":
        return False
    for reason, also_shipped in MAY_BE_NOT_RUN.get(row.stage, ()):
        if row.reason.startswith(reason) and (also_shipped or not shipped):
            return True
    return False
