"""The process that holds the connection to a receiver: `python serving/adapters/video/publish_child.py`.

libav holds Python's lock while it connects and writes headers, so in the mixer's own process a receiver that is silent
would hold up everything else. Standard input: a line of JSON (address, format, options), then the encoded video as NUT,
whose packets go on unchanged. It ends with its input; what went wrong is one line on stdout, without secrets.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import av

AT_ONCE = {"probesize": "32", "analyzeduration": "0"}  # the header says all; waiting for more would delay the picture


def main() -> int:
    """0 at the end of the input, 1 where the receiver refused or left."""
    given = json.loads(sys.stdin.buffer.readline())
    try:
        source: Any = av.open(sys.stdin.buffer, format="nut", options=AT_ONCE)
        target: Any = av.open(given["address"], "w", format=given["format"], options=given["options"])
        video = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = video
                target.mux(packet)
        target.close()
    except (OSError, av.FFmpegError, ValueError, LookupError) as error:
        print(getattr(error, "strerror", None) or type(error).__name__, flush=True)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
