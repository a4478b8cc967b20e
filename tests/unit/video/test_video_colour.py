"""A picture asked for its RGB by several threads at once: libav's objects bear one at a time."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from serving.adapters.video.colour import RgbConverter

# In a process of its own, because what it looks for ends the process or hangs it.
MANY_AT_ONCE = """
import threading
import av, numpy as np
from serving.adapters.video.colour import RgbConverter

convert = RgbConverter()
for number in range(150):
    colour = np.full((270, 480, 3), (number, 90, 200 - number), np.uint8)
    picture = av.VideoFrame.from_ndarray(colour, format="rgb24").reformat(format="yuv420p")
    together, seen = threading.Barrier(3), []
    def ask():
        together.wait()
        seen.extend(convert(picture) for _ in range(3))
    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert len(seen) == 9 and all(np.array_equal(one, seen[0]) for one in seen)
    assert np.abs(seen[0].astype(int) - colour).max() <= 3
"""


def picture_of(colour: tuple[int, int, int]) -> Any:
    pixels = np.full((64, 96, 3), colour, np.uint8)
    return av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")


def test_three_threads_ask_one_picture() -> None:
    done = subprocess.run([sys.executable, "-c", MANY_AT_ONCE], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


def test_one_conversion_at_a_time() -> None:
    class Watched:
        """A scaler that says how many were in it at once."""

        inside = most = 0

        def reformat(self, picture: Any, **more: Any) -> Any:
            self.inside += 1
            self.most = max(self.most, self.inside)
            time.sleep(0.01)
            self.inside -= 1
            return picture.reformat(**more)

    convert, picture, watched = RgbConverter(), picture_of((10, 100, 200)), Watched()
    convert._scaler = watched  # type: ignore[assignment]
    threads = [threading.Thread(target=convert, args=(picture,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert watched.most == 1


def test_the_same_pixels_as_a_conversion_of_its_own() -> None:
    convert = RgbConverter()
    for size, form in (((96, 64), "yuv420p"), ((50, 38), "yuvj422p"), ((64, 64), "gray"), ((48, 32), "rgb24")):
        noise = np.random.default_rng(7).integers(0, 256, (size[1], size[0], 3), np.uint8)
        picture = av.VideoFrame.from_ndarray(noise, format="rgb24").reformat(format=form)
        assert np.array_equal(convert(picture), picture.to_ndarray(format="rgb24")), (size, form)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="skipped: proc: Linux counts a process's threads")
def test_pictures_that_are_kept_keep_no_threads() -> None:
    """A mixer holds two seconds of them; a scaler of its own in each had a thread for every core."""
    convert, pictures = RgbConverter(), [picture_of((n, n, n)) for n in range(40)]
    before = len(list(Path("/proc/self/task").iterdir()))
    for picture in pictures:
        convert(picture)
    assert len(list(Path("/proc/self/task").iterdir())) <= before
