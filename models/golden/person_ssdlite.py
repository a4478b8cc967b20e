"""Run the original pedestrian graph twice, in TensorFlow and as tf2onnx's ONNX, and keep what it answers.

Needs a throwaway environment (TensorFlow is no dependency of this project):

    python -m venv /tmp/golden && /tmp/golden/bin/pip install tensorflow-cpu tf2onnx==1.17.0 onnxruntime pillow
    /tmp/golden/bin/python models/golden/person_ssdlite.py frozen_inference_graph.pb tests/data/golden PICTURE...

Written: `person_ssdlite.npz` with, for each picture, `<stem>/boxes` float32 [1917, 4] (yxyx, 0..1, not clipped),
`<stem>/scores` [1917, 2], and the graph's own `<stem>/final_boxes` [n, 4] (yxyx, clipped) and `<stem>/final_scores`.
The numbers kept are TensorFlow's; the ONNX run must agree within 1e-3 or nothing is written.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

OUTPUTS = {
    "boxes": "Postprocessor/raw_box_locations:0",
    "scores": "Postprocessor/raw_box_scores:0",
    "final_boxes": "detection_boxes:0",
    "final_scores": "detection_scores:0",
    "count": "num_detections:0",
}


def in_tensorflow(graph: Path, pictures: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The frozen graph in a TensorFlow 1 session."""
    import tensorflow as tf  # type: ignore[import-not-found, import-untyped, unused-ignore]

    definition = tf.compat.v1.GraphDef()
    definition.ParseFromString(graph.read_bytes())
    with tf.Graph().as_default() as whole:
        tf.import_graph_def(definition, name="")
        with tf.compat.v1.Session(graph=whole) as session:
            return {name: session.run(OUTPUTS, {"image_tensor:0": pixels[None]}) for name, pixels in pictures.items()}


def in_onnx(graph: Path, pictures: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The same graph through tf2onnx and ONNX Runtime."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "graph.onnx"
        names = ["--inputs", "image_tensor:0", "--outputs", ",".join(OUTPUTS.values())]
        command = [sys.executable, "-m", "tf2onnx.convert", "--graphdef", str(graph), "--output", str(target), *names]
        subprocess.run([*command, "--opset", "17"], check=True, capture_output=True)
        session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
        wanted = list(OUTPUTS.values())
        return {
            name: dict(zip(OUTPUTS, session.run(wanted, {"image_tensor:0": pixels[None]}), strict=True))
            for name, pixels in pictures.items()
        }


def main() -> None:
    """Run both, compare, keep TensorFlow's numbers."""
    from PIL import Image

    options = argparse.ArgumentParser(description="golden outputs of the pedestrian detector's original graph")
    options.add_argument("graph", type=Path)
    options.add_argument("out", type=Path)
    options.add_argument("pictures", type=Path, nargs="+")
    chosen = options.parse_args()
    pictures = {path.stem: np.asarray(Image.open(path).convert("RGB")) for path in chosen.pictures}
    truth, second = in_tensorflow(chosen.graph, pictures), in_onnx(chosen.graph, pictures)
    kept: dict[str, Any] = {}
    for name, run in truth.items():
        count = int(run["count"][0])
        apart = max(float(np.abs(run[key] - second[name][key]).max()) for key in ("boxes", "scores"))
        print(f"{name}: {count} boxes after NMS, TensorFlow against ONNX {apart:.2e}")
        if apart > 1e-3:
            raise SystemExit(f"{name}: the two runs differ by {apart}: nothing written")
        for key in ("boxes", "scores"):
            kept[f"{name}/{key}"] = run[key][0].astype(np.float32)
        for key in ("final_boxes", "final_scores"):
            kept[f"{name}/{key}"] = run[key][0][:count].astype(np.float32)
    np.savez_compressed(chosen.out / "person_ssdlite.npz", **kept)


if __name__ == "__main__":
    main()
