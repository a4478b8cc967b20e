"""Errors of sounds; branches of the tree in serving.errors."""

from __future__ import annotations

from serving.errors import InputError


class AudioInvalid(InputError):
    """Truncated, empty, or not a sound file."""

    code = "audio_invalid"


class AudioUnsupported(InputError):
    """A sound format, rate or number of channels that is not served."""

    code = "audio_unsupported"


class AudioTooLong(InputError):
    """More sound than the limit by the file's header, or found while decoding."""

    code = "audio_too_long"
