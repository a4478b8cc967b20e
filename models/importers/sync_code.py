"""The `sync_code` model: an ONNX graph without trained weights that reads a sync picture (docs/sync-test.md).

It gives 17 boxes: the white square by its centre of brightness, and one for each bit of the picture's number, with a
score of 1 where the block is white. So it is a detector like any other: it is converted, certified and served, and a
running system is measured with it instead of with a stub.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.importers.package import Fetched, Progress
from models.importers.recipe import ImportedModel, Recipe, run
from serving.testing import sync_code as code

BITS = 16
FIRST_BIT = 16  # the number follows marker and clip, 8 bits each, in the first row of blocks
SAMPLES = 48
OPSET = 17


def bring(cache: Path, progress: Progress) -> ImportedModel:
    """The graph and its sample pictures. Raises as models.importers.recipe.run."""
    return run(Recipe("sync_code", (), (Path(__file__), Path(code.__file__)), _build), cache, progress)


def _build(packages: Mapping[str, Fetched], out: Path, progress: Progress) -> None:
    progress("building the sync_code graph")
    (out / "checkpoint.pth").write_bytes(graph().SerializeToString())
    write_samples(out / "samples")


def write_samples(folder: Path) -> None:
    """Sync pictures with numbers of every bit, the square at many places, as PNG; labels.csv says how many boxes."""
    import cv2

    folder.mkdir(parents=True, exist_ok=True)
    lines = ["file,label"]
    for sample in range(SAMPLES):
        index = (1 << sample % BITS) | (sample * 977) % 65536
        centre = 30 + 5.37 * sample, 60 + (sample * 7.31) % 60
        picture = code.picture(index, sample, centre)
        name = f"sync_{sample:02d}.png"
        cv2.imwrite(str(folder / name), picture)
        lines.append(f"{name},{1 + index.bit_count()}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


def graph() -> onnx.ModelProto:
    """images FP32 [n, 3, 240, 320] in 0..1 -> boxes FP32 [n, 17, 4] in pixels, scores FP32 [n, 17, 17]."""
    nodes = [*_read_bits(), *_find_square(), *_join()]
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, code.HEIGHT, code.WIDTH])]
    outputs = [
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["n", BITS + 1, 4]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", BITS + 1, BITS + 1]),
    ]
    made = helper.make_graph(nodes, "sync_code", inputs, outputs, _constants())
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def _read_bits() -> list[onnx.NodeProto]:
    """Means of the blocks that hold the number, as scores: 0 below a third of full light, 1 above two thirds."""
    return [
        helper.make_node("Slice", ["images", "bits_from", "bits_to", "axes"], ["code"]),
        helper.make_node("AveragePool", ["code"], ["blocks"], kernel_shape=[code.BLOCK] * 2, strides=[code.BLOCK] * 2),
        helper.make_node("Reshape", ["blocks", "bits_shape"], ["levels"]),
        helper.make_node("Sub", ["levels", "third"], ["above"]),
        helper.make_node("Mul", ["above", "three"], ["steep"]),
        helper.make_node("Clip", ["steep", "zero", "one"], ["bit_scores"]),
    ]


def _find_square() -> list[onnx.NodeProto]:
    """The centre of what is brighter than the ground, in shares of the field so that half precision holds it."""
    return [
        helper.make_node("Slice", ["images", "field_from", "field_to", "axes"], ["field"]),
        helper.make_node("Sub", ["field", "ground"], ["light_signed"]),
        helper.make_node("Mul", ["light_signed", "contrast"], ["light_scaled"]),
        helper.make_node("Clip", ["light_scaled", "zero", "one"], ["light"]),
        helper.make_node("ReduceMean", ["light"], ["by_column"], axes=[2], keepdims=0),
        helper.make_node("ReduceMean", ["light"], ["by_row"], axes=[3], keepdims=0),
        helper.make_node("ReduceSum", ["by_column", "last"], ["column_total"], keepdims=1),
        helper.make_node("ReduceSum", ["by_row", "last"], ["row_total"], keepdims=1),
        helper.make_node("Max", ["column_total", "least"], ["column_safe"]),
        helper.make_node("Max", ["row_total", "least"], ["row_safe"]),
        helper.make_node("Div", ["by_column", "column_safe"], ["column_share"]),
        helper.make_node("Div", ["by_row", "row_safe"], ["row_share"]),
        helper.make_node("MatMul", ["column_share", "columns"], ["cx"]),
        helper.make_node("MatMul", ["row_share", "rows"], ["cy"]),
        helper.make_node("Concat", ["cx", "cy", "cx", "cy"], ["centre"], axis=2),
        helper.make_node("Add", ["centre", "half"], ["square_box"]),
        helper.make_node("Mul", ["column_total", "presence"], ["square_raw"]),
        helper.make_node("Clip", ["square_raw", "zero", "one"], ["square_score"]),
    ]


def _join() -> list[onnx.NodeProto]:
    """Boxes of square and bits; scores as a column, each kept in its own class."""
    return [
        helper.make_node("Mul", ["square_box", "zeros"], ["nothing"]),
        helper.make_node("Add", ["nothing", "bit_boxes"], ["all_bit_boxes"]),
        helper.make_node("Concat", ["square_box", "all_bit_boxes"], ["boxes"], axis=1),
        helper.make_node("Concat", ["square_score", "bit_scores"], ["column"], axis=1),
        helper.make_node("Mul", ["column", "own_class"], ["scores"]),
    ]


def _constants() -> list[onnx.TensorProto]:
    top, bottom = code.FIELD
    left, right = FIRST_BIT * code.BLOCK, (FIRST_BIT + BITS) * code.BLOCK
    cells = [[left + code.BLOCK * k, 0, left + code.BLOCK * (k + 1), code.BLOCK] for k in range(BITS)]
    half = code.SIDE / 2
    columns = (np.arange(code.WIDTH) + 0.5).reshape(1, -1, 1)
    rows = (np.arange(top, bottom) + 0.5).reshape(1, -1, 1)
    full_mean = code.SIDE * code.SIDE * 0.75 / (bottom - top)  # what a whole square adds to the columns' total
    values: dict[str, object] = {
        "third": 1 / 3, "three": 3.0, "zero": 0.0, "one": 1.0, "least": 1e-3,
        "ground": (code.GREY + 0.25 * (code.WHITE - code.GREY)) / 255, "contrast": 255 / (code.WHITE - code.GREY),
        "columns": columns, "rows": rows, "half": np.array([[[-half, -half, half, half]]]),
        "presence": 1.2 / full_mean, "zeros": np.zeros((1, BITS, 4)), "bit_boxes": np.array([cells]),
        "own_class": np.eye(BITS + 1)[None],
    }  # fmt: skip
    whole: dict[str, list[int]] = {
        "axes": [1, 2, 3], "bits_from": [0, 0, left], "bits_to": [1, code.BLOCK, right], "bits_shape": [-1, BITS, 1],
        "field_from": [0, top, 0], "field_to": [1, bottom, code.WIDTH], "last": [2],
    }  # fmt: skip
    floats = [numpy_helper.from_array(np.asarray(v, np.float32), name) for name, v in values.items()]
    return floats + [numpy_helper.from_array(np.asarray(v, np.int64), name) for name, v in whole.items()]
