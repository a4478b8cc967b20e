"""Fixtures of the stream tests."""

from stream_helpers import _no_thread_stays, clip  # type: ignore[import-not-found]

__all__ = ["_no_thread_stays", "clip"]
