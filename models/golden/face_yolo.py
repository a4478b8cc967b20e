"""Run face-api's own face detector in Node.js (tfjs, CPU backend, FP32) and keep what it answers.

    mkdir /tmp/golden && cd /tmp/golden && npm init -y
    npm install --ignore-scripts @vladmandic/face-api@1.7.15 @tensorflow/tfjs@4.22.0 \\
        @tensorflow/tfjs-backend-wasm@4.22.0
    python models/golden/face_yolo.py /tmp/golden tests/data/golden PICTURE...

Written: `face_yolo.npz` with, for each picture, `<stem>/codes` float32 [13, 13, 25] (raw network output, row, column,
anchor x 5) and `<stem>/faces` float32 [n, 5] (x1, y1, x2, y2 in source pixels, not clipped, and score; over 0.1, after
suppression at IoU 0.4, best first).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

SIZE = 416


def answers(home: Path, pictures: Sequence[Path], size: int = SIZE) -> dict[str, Any]:
    """Arrays by `<stem>/codes` and `<stem>/faces`. `home` is where npm installed face-api and tfjs."""
    from PIL import Image

    node = shutil.which("node")
    if node is None:
        raise SystemExit("node is not on PATH")
    with tempfile.TemporaryDirectory() as temporary:
        raws = []
        for path in pictures:
            with Image.open(path) as opened:
                image = opened.convert("RGB")
            raw = Path(temporary) / f"{path.stem}.rgb"
            raw.write_bytes(image.tobytes())
            raws.append({"raw": str(raw), "width": image.width, "height": image.height})
        job = Path(temporary) / "job.json"
        job.write_text(json.dumps({"size": size, "pictures": raws}), "utf-8")
        command = [node, str(Path(__file__).with_suffix(".cjs")), str(home.resolve()), str(job)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    grid = size // 32
    kept: dict[str, Any] = {}
    for path, answer in zip(pictures, found, strict=True):
        kept[f"{path.stem}/codes"] = np.array(answer["codes"], np.float32).reshape(grid, grid, 25)
        kept[f"{path.stem}/faces"] = np.array(answer["faces"], np.float32).reshape(-1, 5)
    return kept


def main() -> None:
    """Run and pack."""
    options = argparse.ArgumentParser(description="golden outputs of face-api's TinyFaceDetector")
    options.add_argument("home", type=Path, help="folder where npm installed face-api and tfjs")
    options.add_argument("out", type=Path)
    options.add_argument("pictures", type=Path, nargs="+")
    chosen = options.parse_args()
    np.savez_compressed(chosen.out / "face_yolo.npz", **answers(chosen.home, chosen.pictures))


if __name__ == "__main__":
    main()
