"""The bare loops: bytes in memory -> answer, no HTTP, no server. PLAIN is what a good engineer writes first, BEST uses
every trick the server uses. Written over the public runtimes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime
import openvino
import simplejpeg
from PIL import Image

from loadtest.workload import Workload

Pixels = npt.NDArray[np.uint8]
Answer = list[tuple[int, float]]
Loop = Callable[[Sequence[bytes]], list[Answer]]


def plain_loop(workload: Workload) -> Loop:
    """OpenCV full decode, bilinear resize, NumPy normalise, ONNX Runtime defaults, batch 1."""
    session = onnxruntime.InferenceSession(str(workload.onnx), providers=["CPUExecutionProvider"])

    def run(batch: Sequence[bytes]) -> list[Answer]:
        answers = []
        for data in batch:
            decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            if decoded is None:
                raise ValueError("the corpus holds a file that OpenCV cannot decode")
            rgb = np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)
            pixels = fit(rgb, workload.preprocess, cv2_resize)
            outputs = session.run(None, {workload.input_name: workload.normalise(pixels)[None]})
            answers.append(decide(workload, [o[0] for o in outputs]))
        return answers

    return run


def best_loop(workload: Workload) -> Loop:
    """simplejpeg, the spec's own resize, OpenVINO with the certified precision, one thread, the whole batch at once."""
    cv2.setNumThreads(1)
    hint = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": workload.precision}
    hint["ENABLE_CPU_PINNING"] = False  # two such processes would pin themselves to the same core
    compiled = openvino.Core().compile_model(str(workload.openvino), "CPU", hint)
    request = compiled.create_infer_request()

    def run(batch: Sequence[bytes]) -> list[Answer]:
        pixels = [fit(_decode(data, workload.preprocess), workload.preprocess, spec_resize) for data in batch]
        request.infer({workload.input_name: np.stack([workload.normalise(p) for p in pixels])})
        outputs = [request.get_output_tensor(i).data for i in range(len(compiled.outputs))]
        return [decide(workload, [o[i] for o in outputs]) for i in range(len(batch))]

    return run


LOOPS: dict[str, Callable[[Workload], Loop]] = {"plain": plain_loop, "best": best_loop}


def _decode(data: bytes, preprocess: dict[str, Any]) -> Pixels:
    """Full size, or where the certified spec says `fast` at 1/2, 1/4 or 1/8 with twice the resize's size to spare."""
    height, width = simplejpeg.decode_jpeg_header(data)[:2]
    side = preprocess["shortest_side"] or max(preprocess["width"], preprocess["height"])
    ratio = min(height, width) / side / 2
    reduce = next((r for r in (8, 4, 2) if ratio >= r), 1)
    if not preprocess["fast"] or width * height <= 500_000 or reduce == 1:
        return np.asarray(simplejpeg.decode_jpeg(data, "RGB"), np.uint8)
    smallest = {"min_height": -(-height // reduce), "min_width": -(-width // reduce)}
    return np.asarray(simplejpeg.decode_jpeg(data, "RGB", **smallest), np.uint8)


def fit(rgb: Pixels, preprocess: dict[str, Any], resize: Callable[[Pixels, int, int, str], Pixels]) -> Pixels:
    """Stretch, or shortest side and centre crop: the two rules of the benchmarked models."""
    width, height, kernel = preprocess["width"], preprocess["height"], preprocess["kernel"]
    if preprocess["resize"] == "stretch":
        return resize(rgb, width, height, kernel)
    if preprocess["resize"] != "shortest_side_crop":
        raise ValueError(f"the bare loops know stretch and shortest_side_crop, not {preprocess['resize']}")
    h, w = rgb.shape[:2]
    side = preprocess["shortest_side"]
    new_w, new_h = (side, int(side * h / w)) if w <= h else (int(side * w / h), side)
    resized = resize(rgb, new_w, new_h, kernel)
    top, left = round((new_h - height) / 2), round((new_w - width) / 2)
    return resized[top : top + height, left : left + width]


def cv2_resize(rgb: Pixels, width: int, height: int, kernel: str) -> Pixels:
    """OpenCV's bilinear; INTER_AREA where the spec's kernel averages and OpenCV's bilinear would skip source pixels.

    On 12 megapixels bilinear reads 4 pixels of 250: 5 of 16 photos got another class, another job than the served one.
    """
    skips = rgb.shape[1] > 2 * width and rgb.shape[0] > 2 * height
    area = skips and kernel == "pil_bilinear"
    interpolation = cv2.INTER_AREA if area else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(rgb, (width, height), interpolation=interpolation), np.uint8)


def spec_resize(rgb: Pixels, width: int, height: int, kernel: str) -> Pixels:
    if kernel == "pil_bilinear":
        return np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.BILINEAR))
    if kernel == "tf1_bilinear":
        return _tf1_bilinear(rgb, width, height)
    return cv2_resize(rgb, width, height, kernel)


def _tf1_bilinear(rgb: Pixels, width: int, height: int) -> Pixels:
    """TensorFlow 1's resize (no half-pixel centres) as an affine warp: dst (x, y) reads src (x * sx, y * sy)."""
    h, w = rgb.shape[:2]
    matrix = np.array([[w / width, 0, 0], [0, h / height, 0]], np.float64)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(rgb, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(warped, np.uint8)


def decide(workload: Workload, outputs: list[npt.NDArray[Any]]) -> Answer:
    """Top-5 (class, score), or the boxes after suppression as (class, confidence)."""
    if workload.task == "classification":
        logits = outputs[0].astype(np.float32)
        scores = np.exp(logits - logits.max())
        scores /= scores.sum()
        return [(int(c), float(scores[c])) for c in np.argsort(-scores)[:5]]
    options = workload.options
    boxes, scores = outputs[0].reshape(-1, 4), outputs[1].reshape(len(outputs[0].reshape(-1, 4)), -1)
    scores = scores[:, 1:] if options.get("background_class") else scores
    index, class_id = np.nonzero(scores >= 0.3)
    x1y1, x2y2 = boxes[index][:, :2], boxes[index][:, 2:]
    rects = np.concatenate([x1y1, x2y2 - x1y1], axis=1)
    confidence = scores[index, class_id]
    kept = cv2.dnn.NMSBoxesBatched(
        rects.tolist(), confidence.tolist(), class_id.tolist(), 0.3, options.get("nms_iou", 0.45)
    )
    return [(int(class_id[i]), float(confidence[i])) for i in np.asarray(kept).ravel()]
