"""Fixtures of the video tests."""

from video_helpers import clip  # type: ignore[import-not-found]

__all__ = ["clip"]
