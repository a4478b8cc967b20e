"""Run face-api's own face embedding in Node.js (tfjs, CPU backend, FP32) and keep what it answers.

    mkdir /tmp/golden && cd /tmp/golden && npm init -y
    npm install --ignore-scripts @vladmandic/face-api@1.7.15 @tensorflow/tfjs@4.22.0 \\
        @tensorflow/tfjs-backend-wasm@4.22.0
    python models/golden/face_embedder.py /tmp/golden tests/data/golden astronaut_0.png

Written: `face_embedder.npz` with, for each chip, `<name>/chip` uint8 [150, 150, 3] RGB and `<name>/embedding` float32
[128], not normalised. `noise` is drawn from a seed, the others are the chips named on the command line.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SIDE = 150
Chip = npt.NDArray[np.uint8]


def answers(home: Path, chips: Mapping[str, Chip]) -> dict[str, Any]:
    """Arrays by `<name>/embedding`. `home` is where npm installed face-api and tfjs."""
    node = shutil.which("node")
    if node is None:
        raise SystemExit("node is not on PATH")
    with tempfile.TemporaryDirectory() as temporary:
        raws = []
        for name, chip in chips.items():
            assert chip.shape == (SIDE, SIDE, 3), name
            raws.append(str(Path(temporary) / f"{name}.rgb"))
            Path(raws[-1]).write_bytes(chip.tobytes())
        job = Path(temporary) / "job.json"
        job.write_text(json.dumps({"chips": raws}), "utf-8")
        command = [node, str(Path(__file__).with_suffix(".cjs")), str(home.resolve()), str(job)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return {f"{n}/embedding": np.array(e, np.float32) for n, e in zip(chips, found, strict=True)}


def noise() -> Chip:
    """A chip that is no face: every path of the network is excited by it."""
    return np.random.default_rng(6).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def main() -> None:
    """Run and pack."""
    from PIL import Image

    options = argparse.ArgumentParser(description="golden outputs of face-api's FaceRecognitionNet")
    options.add_argument("home", type=Path, help="folder where npm installed face-api and tfjs")
    options.add_argument("out", type=Path)
    options.add_argument("chips", type=Path, nargs="+")
    chosen = options.parse_args()
    chips = {"noise": noise()}
    chips |= {path.stem: np.array(Image.open(path).convert("RGB"), np.uint8) for path in chosen.chips}
    stored = {f"{name}/chip": chip for name, chip in chips.items()}
    np.savez_compressed(chosen.out / "face_embedder.npz", **stored, **answers(chosen.home, chips))


if __name__ == "__main__":
    main()
