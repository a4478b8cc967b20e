"""Make pedestrians.mp4 once: 18 s of OpenCV's vtest sample as H.264 with B-frames (decode order is not display order).

python -m models.samples.make_pedestrians path/to/vtest.avi models/samples/pedestrians.mp4
"""

from __future__ import annotations

import argparse
import itertools
from fractions import Fraction
from pathlib import Path

FIRST, COUNT, RATE = 520, 180, 10


def make(source: Path, target: Path) -> None:
    """Frames FIRST to FIRST + COUNT - 1, same size (768x576) and rate, timestamps from 0."""
    import av

    options = {"crf": "25", "preset": "veryslow", "bf": "3", "g": "50", "x264-params": "b-adapt=0:scenecut=0"}
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        stream = writer.add_stream("libx264", rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = 768, 576, "yuv420p"
        for number, frame in enumerate(itertools.islice(reader.decode(video=0), FIRST, FIRST + COUNT)):
            picture = frame.reformat(format="yuv420p")
            picture.pts, picture.time_base = number, Fraction(1, RATE)
            # The source's own picture types would be taken as orders, and the source has no B-frames.
            picture.pict_type = av.video.frame.PictureType.NONE
            writer.mux(stream.encode(picture))
        writer.mux(stream.encode(None))


def main() -> None:
    """Read the two paths and make the clip."""
    options = argparse.ArgumentParser(description="cut and re-encode OpenCV's vtest sample")
    options.add_argument("source", type=Path, help="vtest.avi of Debian's opencv-doc 4.6.0")
    options.add_argument("target", type=Path)
    chosen = options.parse_args()
    make(chosen.source, chosen.target)


if __name__ == "__main__":
    main()
