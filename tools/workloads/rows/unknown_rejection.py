"""Unknown rejection: digits 0 to 6 are known, 7 to 9 must be answered with `unknown`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from evaluation.labelled import read_labelled
from serving.types import PixelArray
from tools.workloads.bench import Bench, read_rgb
from tools.workloads.row import Row, Shown

MODEL, SHOWN, COLUMNS = "digits_open", 64, 16


def show(bench: Bench) -> Shown:
    """A sheet of held-out digits (green: right, red: wrong), and how many known and unknown ones were told apart."""
    pairs = read_labelled(bench.samples(MODEL))
    said = [bench.ask(MODEL, path)["classes"][0]["label"] for path, _ in pairs]
    right = [label == truth for label, (_, truth) in zip(said, pairs, strict=True)]
    strange = np.array([truth == "unknown" for _, truth in pairs])
    refused = np.array([label == "unknown" for label in said])
    _, figures = bench.measured(MODEL, pairs[0][0])
    figures |= {
        "known digits accepted and rightly named": f"{np.mean(np.array(right)[~strange]):.1%} of {(~strange).sum()}",
        "7, 8 and 9 accepted (false accepts)": f"{np.mean(~refused[strange]):.1%} of {strange.sum()}",
    }
    sheet = np.concatenate(
        [np.concatenate([_framed(*one) for one in row], axis=1) for row in _sheet(pairs, right)], axis=0
    )
    wrong = [
        {"picture": path.name, "is": truth, "answered": label}
        for (path, truth), label, good in zip(pairs, said, right, strict=True) if not good
    ]  # fmt: skip
    about = f"the first {SHOWN} held-out digits; green frame: answered right (7, 8, 9: `unknown`), red: not"
    return Shown([(about, sheet)], {**figures, **bench.score(MODEL)}, wrong[:8])


def _sheet(pairs: list[tuple[Path, str]], right: list[bool]) -> list[list[tuple[Path, bool]]]:
    cells = [(path, good) for (path, _), good in zip(pairs, right, strict=True)][:SHOWN]
    return [cells[start : start + COLUMNS] for start in range(0, len(cells), COLUMNS)]


def _framed(path: Path, right: bool) -> PixelArray:
    """The picture in a frame of its verdict's colour, enlarged once without smoothing."""
    colour = (40, 170, 70) if right else (220, 40, 40)
    cell = np.full((38, 38, 3), colour, np.uint8)
    cell[2:-2, 2:-2] = 255
    picture = read_rgb(path)
    cell[3 : 3 + picture.shape[0], 3 : 3 + picture.shape[1]] = picture
    return cell


ROW = Row(
    20, "Unknown rejection", "A sigmoid for each digit 0 to 6 with its threshold; what no class reaches is `unknown`.",
    (MODEL,), show,
)  # fmt: skip
