"""`python -m deploy.embedded.sender CLIP udp://127.0.0.1:PORT`: a clip as a camera, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

from serving.adapters.video.live import send_live
from serving.clock import SystemClock
from serving.errors import LockstepError


def main() -> int:
    """0: told to stop."""
    if len(sys.argv) != 3:
        sys.exit("usage: python -m deploy.embedded.sender CLIP ADDRESS")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        send_live(Path(sys.argv[1]), sys.argv[2], SystemClock(), stop.wait)
    except (LockstepError, OSError) as error:
        sys.exit(f"sender: {sys.argv[2]}: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
