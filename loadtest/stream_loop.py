"""The bare loop over video: what the job costs when nothing is between the libraries. `python -m loadtest.stream_loop`.

One process per core; PyAV, OpenVINO, OpenCV, `trackers` and libx264 called one after the other, each with one thread,
with the same engine file, precision, tracker settings, encoder and preset as the server. Every stage is charged with
the CPU time of the whole process, so that a library's own threads count.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
import openvino

from loadtest.loops import fit, spec_resize
from loadtest.stream_clips import opened
from loadtest.stream_tracker import new_tracker, tracked
from loadtest.workload import Workload

STAGES = ("decode", "convert", "infer", "track", "emit")
ENCODER = {"preset": "veryfast", "crf": "23"}
Pixels = npt.NDArray[np.uint8]
Boxes = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int64]]


@dataclass(slots=True)
class Costs:
    """CPU seconds by stage, and how often each stage ran."""

    cpu_s: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    calls: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))
    _at: float = 0.0

    def start(self) -> None:
        """From here on the time belongs to the next stage that is charged."""
        self._at = time.process_time()

    def charge(self, stage: str, calls: int = 1) -> None:
        """The CPU time since the last mark goes to `stage`."""
        now = time.process_time()
        self.cpu_s[stage] += now - self._at
        self.calls[stage] += calls
        self._at = now


class Detector:
    """A published detector: RGB picture -> boxes in its pixels, confidences, class ids."""

    def __init__(self, workload: Workload) -> None:
        hint = {
            "INFERENCE_NUM_THREADS": 1,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": workload.precision,
            "ENABLE_CPU_PINNING": False,  # each process would pin itself to the same core
        }
        self._compiled = openvino.Core().compile_model(str(workload.openvino), "CPU", hint)
        self._request = self._compiled.create_infer_request()
        self._workload = workload

    def find(self, rgb: Pixels) -> Boxes:
        """Boxes of confidence 0.3 and more after suppression."""
        work = self._workload
        pixels = fit(rgb, work.preprocess, spec_resize)
        self._request.infer({work.input_name: work.normalise(pixels)[None]})
        outputs = [self._request.get_output_tensor(i).data[0] for i in range(len(self._compiled.outputs))]
        boxes = outputs[0].reshape(-1, 4)
        scores = outputs[1].reshape(len(boxes), -1)
        scores = scores[:, 1:] if work.options.get("background_class") else scores
        index, class_id = np.nonzero(scores >= 0.3)
        height, width = rgb.shape[:2]
        unit = work.options.get("box_frame") == "unit"
        scale = (width, height) if unit else (width / pixels.shape[1], height / pixels.shape[0])
        xyxy = (boxes[index] * np.asarray([*scale, *scale], np.float32)).astype(np.float32)
        confidence = scores[index, class_id].astype(np.float32)
        rects = np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], axis=1)
        kept = np.asarray(
            cv2.dnn.NMSBoxesBatched(
                rects.tolist(), confidence.tolist(), class_id.tolist(), 0.3, work.options.get("nms_iou", 0.45)
            ),
            np.int64,
        ).ravel()
        return xyxy[kept], confidence[kept], class_id[kept].astype(np.int64)


class Output:
    """Draws, encodes and writes a line a frame."""

    def __init__(self, target: Path, width: int, height: int, rate: Fraction) -> None:
        self._container = opened(target, "w")
        self._stream = self._container.add_stream(
            "libx264", rate=rate, width=width, height=height, pix_fmt="yuv420p", options=ENCODER
        )
        self._stream.codec_context.thread_count = 1
        self._lines = target.with_suffix(".jsonl").open("w", encoding="utf-8")
        self._rate, self._frames = rate, 0

    def emit(self, rgb: Pixels, boxes: Boxes, ids: list[int], pts: int) -> None:
        """One picture with its boxes, and its line."""
        rows = []
        for box, score, class_id, track in zip(*boxes, ids, strict=True):
            x1, y1, x2, y2 = (round(float(v)) for v in box)
            cv2.rectangle(rgb, (x1, y1), (x2, y2), (0, 220, 60), 2)
            cv2.putText(rgb, f"#{track} {score:.2f}", (x1, y1 - 3), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 1)
            rows.append({"xyxy": box.tolist(), "confidence": float(score), "class_id": int(class_id), "track": track})
        self._lines.write(json.dumps({"pts": pts, "detections": rows}) + "\n")
        picture = av.VideoFrame.from_ndarray(rgb, format="rgb24")
        picture.pts, picture.time_base = self._frames, 1 / self._rate
        self._frames += 1
        self._container.mux(self._stream.encode(picture))

    def close(self) -> None:
        """What the encoder still holds, and the index."""
        self._container.mux(self._stream.encode(None))
        self._container.close()
        self._lines.close()


class StreamLoop:
    """One clip, over and over."""

    def __init__(self, workload: Workload, clip: Path, every: int, output: Path) -> None:
        self._detector = Detector(workload)
        self._clip, self._every, self._output = clip, every, output

    def found(self, most: int) -> list[list[float]]:
        """The confidences found on the first `most` analysed frames: what is compared before anything is timed."""
        rows: list[list[float]] = []
        with opened(self._clip) as container:
            for number, frame in enumerate(container.decode(video=0)):
                if number % self._every == 0:
                    rows.append([float(c) for c in self._detector.find(frame.to_ndarray(format="rgb24"))[1]])
                if len(rows) == most:
                    break
        return rows

    def block(self, seconds: float) -> dict[str, Any]:
        """As many frames as fit into `seconds`; wall and CPU seconds, and the CPU seconds of every stage."""
        costs, started, cpu, frames = Costs(), time.perf_counter(), time.process_time(), 0
        costs.start()
        while time.perf_counter() - started < seconds:
            frames += self._play(costs, started + seconds)
        wall = time.perf_counter() - started
        cpu_s = time.process_time() - cpu
        return {"frames": frames, "wall_s": wall, "cpu_s": cpu_s, "stages": costs.cpu_s, "calls": costs.calls}

    def _play(self, costs: Costs, until: float) -> int:
        tracker, boxes, ids, count = new_tracker(), _NOTHING, list[int](), 0
        with opened(self._clip) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            size = stream.codec_context.width, stream.codec_context.height
            output = Output(self._output, *size, Fraction(stream.average_rate))
            for frame in container.decode(stream):
                costs.charge("decode")
                rgb = frame.to_ndarray(format="rgb24")
                costs.charge("convert")
                if count % self._every == 0:
                    boxes = self._detector.find(rgb)
                    costs.charge("infer")
                    ids = tracked(tracker, *boxes, float(frame.pts * stream.time_base))
                    costs.charge("track")
                output.emit(rgb, boxes, ids, frame.pts)
                costs.charge("emit")
                count += 1
                if time.perf_counter() >= until:
                    break
            output.close()
            costs.charge("emit", 0)
        return count


_NOTHING: Boxes = (np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))


def main() -> None:
    """One process: what it found on the first line, then a line a block."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("version_dir", type=Path)
    parser.add_argument("clip", type=Path)
    parser.add_argument("every", type=int)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    loop = StreamLoop(Workload.read(options.version_dir), options.clip, options.every, options.output)
    print(json.dumps(loop.found(12)), flush=True)
    for line in sys.stdin:
        print(json.dumps(loop.block(float(line))), flush=True)


if __name__ == "__main__":
    main()
