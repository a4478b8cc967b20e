"""`lockstep sync-test`: how far boxes are from the pictures they belong to, measured from the pixels of a mixed video.

clip with numbered pictures -> reader -> timeline -> detector -> mixer -> MP4 -> reader -> numbers -> score
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from serving.adapters.video.storage import make_folder, write_whole
from serving.errors import LockstepError, ParameterInvalid
from serving.streams.worker import Infer
from serving.testing import sync_drift
from serving.testing.mutants import MUTANTS
from serving.testing.sync_check import SyncScore, score
from serving.testing.sync_clips import KINDS
from serving.testing.sync_play import play, read_picture
from serving.testing.sync_scene import Parts

# The clip kinds of which every one must fail with the mutant (docs/sync-test.md).
MUTANT_KINDS: Mapping[str, tuple[str, ...]] = {
    "dts": ("ibbp", "pyramid", "open_gop", "vfr", "flv", "wrap_dts"),
    "packet_order": ("ibbp", "pyramid"),
    "arrival": ("no_b", "ibbp", "two_pipelines"),
    "milliseconds": ("ntsc", "ibbp", "vfr"),
    "float": ("ntsc", "tb_1ns", "vfr"),
    "no_epoch": ("reconnect_storm",),
    "one_way_unwrap": ("bad_order_near_wrap",),
    "wall_clock": ("clock_jump",),
    "last_arrival": ("rivals",),
    "late_on_newest": ("late",),
    "fill_across_gap": ("gap",),
    "one_pipeline": ("two_pipelines",),
}
DTS_SHARES: Mapping[str, float] = {"ibbp": 0.67, "pyramid": 0.25}  # docs/alignment.md, "Score"
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class SyncReport:
    """All kinds that ran. With a mutant, a kind that fails has caught it."""

    mutant: str
    scores: tuple[SyncScore, ...]

    @property
    def ok(self) -> bool:
        """Exit status 0: no kind found a fault."""
        return all(found.ok for found in self.scores)

    @property
    def caught(self) -> tuple[str, ...]:
        """Kinds that found a fault."""
        return tuple(found.kind for found in self.scores if not found.ok)

    def to_document(self) -> dict[str, Any]:
        """For `--json`."""
        kinds = [{k: v for k, v in asdict(s).items() if k != "errors"} | {"ok": s.ok} for s in self.scores]
        return {"ok": self.ok, "mutant": self.mutant or None, "caught_by": list(self.caught), "kinds": kinds}

    def text(self) -> str:
        """A table for people."""
        lines = [f"{'kind':<20} exact measured cover fill.err AE mean/p95/max  toggles/min jumps/s added ms"]
        lines += [_line(found) for found in self.scores]
        lines += [f"  {found.kind}: {fault}" for found in self.scores for fault in found.faults]
        total = sum(found.measured_boxes for found in self.scores)
        verdict = f"{len(self.scores)} kinds, {total} measured boxes"
        if self.mutant:
            return "\n".join([*lines, f"mutant {self.mutant}: {verdict}, caught by {', '.join(self.caught) or 'NONE'}"])
        return "\n".join([*lines, f"sync-test: {verdict}: {'passed' if self.ok else 'FAILED'}"])


def sync_test(
    kinds: Sequence[str] = (),
    mutant: str = "",
    infer: Infer = read_picture,
    keep: Path | None = None,
    say: Say | None = None,
) -> SyncReport:
    """Run kinds by name (all, or those of the mutant). keep: a folder for clips and mixed videos.

    infer: the detector; sync_code's is `serving.testing.sync_model.as_detector`. Raises ParameterInvalid and
    StorageFailed.
    """
    if mutant and mutant not in MUTANTS:
        raise ParameterInvalid(f"--mutant: expected one of {', '.join(MUTANTS)}, got {mutant!r}")
    known = [*KINDS, sync_drift.NAME]
    chosen = list(kinds) or (list(MUTANT_KINDS[mutant]) if mutant else known)
    if unknown := sorted(set(chosen) - set(known)):
        raise ParameterInvalid(f"--kind: expected some of {', '.join(known)}, got {', '.join(unknown)}")
    if keep is not None:
        make_folder(keep)
    parts = MUTANTS[mutant].parts if mutant else None
    scores = []
    for name in chosen:
        if say is not None:
            say(f"{name}: {KINDS[name].what if name in KINDS else 'ten minutes at timeline level'}")
        scores.append(_one(name, parts, infer, keep))
    return SyncReport(mutant, tuple(scores))


def error_picture(report: SyncReport, path: Path) -> None:
    """A PNG of the alignment error (frames, up: the box is of a later picture) over time, a row a kind. Raises
    StorageFailed."""
    rows = [found for found in report.scores if found.errors]
    height, width, left = 44, 640, 190
    sheet = np.full((max(1, len(rows)) * height + 8, left + width + 8, 3), 255, np.uint8)
    for place, found in enumerate(rows):
        middle = place * height + height // 2 + 4
        scale = (height / 2 - 4) / max(1, *(abs(e) for e in found.errors))
        cv2.putText(
            sheet, f"{found.kind} {found.exact:.1%}", (6, middle + 4), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1
        )
        cv2.line(sheet, (left, middle), (left + width, middle), (200, 200, 200), 1)
        step = width / max(1, len(found.errors))
        for at, error in enumerate(found.errors):
            x = left + round(at * step)
            colour = (0, 140, 0) if error == 0 else (0, 0, 220)
            cv2.line(sheet, (x, middle), (x, middle - round(error * scale)), colour, max(1, math.ceil(step)))
    write_whole(path, cv2.imencode(".png", sheet)[1].tobytes())


def _one(name: str, parts: Parts | None, infer: Infer, keep: Path | None) -> SyncScore:
    if name == sync_drift.NAME:
        return sync_drift.drift(parts)
    with tempfile.TemporaryDirectory(prefix="sync-") as scratch:
        folder = keep or Path(scratch)
        try:
            return score(KINDS[name], play(KINDS[name], folder, parts, infer))
        except (LockstepError, ValueError) as error:
            return _broken(name, error)


def _broken(name: str, error: Exception) -> SyncScore:
    """The run itself failed, which is a fault like any other."""
    fault = f"the run failed: {error}"
    return SyncScore(name, 0, 0, 0, 0.0, 0.0, 0.0, 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, (fault,))


def _line(found: SyncScore) -> str:
    ae = f"{found.ae_mean:.2f}/{found.ae_p95:.0f}/{found.ae_max}"
    shares = f"{found.exact:5.1%} {found.measured:7.1%} {found.coverage:6.1%} {found.fill_error:6.2f}"
    return (
        f"{found.kind:<20} {shares}  {ae:>14}"
        f" {found.toggles:12.1f} {found.jumps:7.1f} {found.latency_max_ms:8.0f}  {'ok' if found.ok else 'FAULT'}"
    )
