"""Sound as it comes (WAV, FLAC, plain PCM) -> mono float32 at the network's rate -> windows. In bounded memory.

The format is found from the bytes, never from a name; limits are checked on the header before anything is decoded, and
again while decoding. Channels are mixed as their mean, before resampling; 16-bit samples are divided by 32768.
Resampling is soxr's HQ recipe, as a stream: the answer does not depend on how the sound was cut into blocks.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import soundfile
import soxr

from serving.errors import ParameterInvalid
from serving.errors_audio import AudioInvalid, AudioTooLong, AudioUnsupported
from serving.frames import is_sound
from serving.spec import SoundSpec
from serving.types import FloatArray

BLOCK = 65_536  # frames decoded at once
WINDOWS_AT_ONCE = 512
UNKNOWN_SIZE = 0x7FFF0000  # sizes from here on stand for "not known when it was written"
_PCM = re.compile(r"(\d{4,6})(?:x([1-8]))?\Z", re.ASCII)
_OTHER = (
    (b"OggS", "Ogg"),
    (b"ID3", "MP3"),
    (b"\xff\xfb", "MP3"),
    (b"FORM", "AIFF"),
    (b"RF64", "RF64"),
    (b"caff", "CAF"),
)


@dataclass(frozen=True, slots=True)
class SoundLimits:
    """Upper bounds on one sound. Rates in Hz; channels: 8 are 7.1."""

    max_seconds: float = 4 * 3600.0
    min_rate: int = 8_000
    max_rate: int = 96_000
    max_channels: int = 8


@dataclass(frozen=True, slots=True)
class SoundHeader:
    """What a file says of itself. frames: samples of one channel."""

    format: str
    rate: int
    channels: int
    frames: int

    @property
    def seconds(self) -> float:
        """Length."""
        return self.frames / self.rate


def wav_of(samples: FloatArray, rate: int) -> bytes:
    """Mono float32 as a WAV file of 32-bit floats: read again, the same numbers."""
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format="WAV", subtype="FLOAT")
    return out.getvalue()


def read_sound_header(data: bytes) -> SoundHeader:
    """Format, rate, channels, length. Raises AudioInvalid (empty, truncated, no sound), AudioUnsupported."""
    if not data:
        raise AudioInvalid("the sound is empty (0 bytes)", hint="send the bytes of a WAV or FLAC file")
    if not is_sound(data):
        other = next((name for magic, name in _OTHER if data.startswith(magic)), "")
        if other:
            raise AudioUnsupported(f"{other} sound is not served", hint="send WAV or FLAC")
        raise AudioInvalid("the data is no sound file", hint="send the bytes of a WAV or FLAC file")
    if missing := _missing_from_wav(data):
        raise AudioInvalid(f"the sound is cut off: {missing} bytes of it are missing", hint="send the whole file")
    with _opened(data) as file:
        return SoundHeader(file.format, file.samplerate, file.channels, file.frames)


def _missing_from_wav(data: bytes) -> int:
    """Bytes that a WAV file's chunk of samples promises and does not have (libsndfile would not say so).

    A recorder that writes to a pipe cannot know the size and puts a very large number: then the end of the file is the
    end of the sound (RIFF: https://www.mmsp.ece.mcgill.ca/Documents/AudioFormats/WAVE/WAVE.html).
    """
    place = 12
    while data[:4] == b"RIFF" and place + 8 <= len(data):
        kind, size = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        place += 8
        if kind == b"data":
            return max(0, place + size - len(data)) if size < UNKNOWN_SIZE else 0
        place += size + size % 2
    return 0


def check_sound(header: SoundHeader, limits: SoundLimits) -> None:
    """Raises AudioUnsupported or AudioTooLong; nothing is decoded."""
    if not limits.min_rate <= header.rate <= limits.max_rate:
        raise AudioUnsupported(f"{header.rate} Hz: expected {limits.min_rate} to {limits.max_rate}")
    if not 1 <= header.channels <= limits.max_channels:
        raise AudioUnsupported(f"{header.channels} channels: expected 1 to {limits.max_channels}")
    if header.seconds > limits.max_seconds:
        raise AudioTooLong(f"{header.seconds:.0f} s of sound: expected at most {limits.max_seconds:.0f}")


def mono_blocks(data: bytes, rate: int, limits: SoundLimits | None = None, pcm: str = "") -> Iterator[FloatArray]:
    """Blocks of mono float32 at `rate`. pcm: `RATExCHANNELS` of bare little-endian 16-bit samples, '' for a file.

    Raises AudioInvalid, AudioUnsupported, AudioTooLong and ParameterInvalid (pcm).
    """
    limits = limits or SoundLimits()
    header = _pcm_header(data, pcm) if pcm else read_sound_header(data)
    check_sound(header, limits)
    mono = _pcm_blocks(data, header) if pcm else _file_blocks(data, header, limits)
    return _resampled(mono, header.rate, rate)


def _pcm_header(data: bytes, pcm: str) -> SoundHeader:
    match = _PCM.match(pcm)
    if match is None:
        raise ParameterInvalid(f"pcm: expected RATE or RATExCHANNELS (16000, 48000x2), got {pcm[:40]!r}")
    rate, channels = int(match[1]), int(match[2] or 1)
    if not data or len(data) % (2 * channels):
        raise AudioInvalid(f"pcm: expected a multiple of {2 * channels} bytes and at least one, got {len(data)}")
    return SoundHeader("PCM", rate, channels, len(data) // (2 * channels))


def _pcm_blocks(data: bytes, header: SoundHeader) -> Iterator[FloatArray]:
    samples = np.frombuffer(data, "<i2").reshape(-1, header.channels)
    for start in range(0, len(samples), BLOCK):
        yield (samples[start : start + BLOCK].astype(np.float32) / np.float32(32768)).mean(axis=1, dtype=np.float32)


def _file_blocks(data: bytes, header: SoundHeader, limits: SoundLimits) -> Iterator[FloatArray]:
    most, seen = limits.max_seconds * header.rate, 0
    with _opened(data) as file:
        while True:
            try:
                block = file.read(BLOCK, dtype="float32", always_2d=True)
            except (soundfile.SoundFileError, RuntimeError) as error:
                raise AudioInvalid(f"the sound is damaged after {seen / header.rate:.3f} s") from error
            if not len(block):
                break
            seen += len(block)
            if seen > most:
                raise AudioTooLong(f"more than {limits.max_seconds:.0f} s of sound, whatever its header says")
            if not np.isfinite(block).all():
                raise AudioInvalid(f"samples that are no numbers, before {seen / header.rate:.3f} s")
            yield block.mean(axis=1, dtype=np.float32)
    if not seen:
        raise AudioInvalid("the file holds no sound (0 samples)")
    if header.format == "FLAC" and seen < header.frames:
        raise AudioInvalid(f"the sound ends after {seen} of {header.frames} samples", hint="send the whole file")


def _opened(data: bytes) -> soundfile.SoundFile:
    try:
        return soundfile.SoundFile(io.BytesIO(data))
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise AudioInvalid("the sound file's header cannot be read", hint="send a complete WAV or FLAC file") from error


def _resampled(blocks: Iterator[FloatArray], given: int, wanted: int) -> Iterator[FloatArray]:
    if given == wanted:
        yield from blocks
        return
    resampler = Resampler(given, wanted)
    for block in blocks:
        yield resampler.feed(block)
    yield resampler.end()


class Resampler:
    """A stream of mono float32 from one rate to another."""

    def __init__(self, given: int, wanted: int) -> None:
        self._stream = soxr.ResampleStream(given, wanted, 1, dtype="float32", quality="HQ")

    def feed(self, block: FloatArray) -> FloatArray:
        """What can be said so far."""
        return np.asarray(self._stream.resample_chunk(block), np.float32)

    def end(self) -> FloatArray:
        """What was still inside the filter."""
        return np.asarray(self._stream.resample_chunk(np.zeros(0, np.float32), last=True), np.float32)


class Windows:
    """Cuts a stream of samples into windows `[t, context + window]`; what does not fill one is kept for later."""

    def __init__(self, rule: SoundSpec) -> None:
        self._rule = rule
        self._kept = np.zeros(rule.context, np.float32)  # the past that the next window needs, then what waits

    def feed(self, samples: FloatArray) -> FloatArray:
        """Windows that are full now."""
        rule = self._rule
        self._kept = np.concatenate([self._kept, samples.astype(np.float32, copy=False)])
        wide = rule.context + rule.window
        count = max(0, (len(self._kept) - wide) // rule.step + 1)
        if not count:
            return np.zeros((0, wide), np.float32)
        full = np.lib.stride_tricks.sliding_window_view(self._kept, wide)[:: rule.step][:count].copy()
        self._kept = self._kept[count * rule.step :].copy()
        return full

    @property
    def waiting(self) -> int:
        """Samples that are in no window yet, as the start of one."""
        return len(self._kept) - self._rule.context

    def end(self, made: int) -> FloatArray:
        """The last window, filled up with zeros, where samples are left that no window held. made: windows so far."""
        rule = self._rule
        held = rule.window - rule.step if made else 0  # overlap that the window before has shown already
        if self.waiting <= held:
            return np.zeros((0, rule.context + rule.window), np.float32)
        return self.feed(np.zeros(rule.window - self.waiting, np.float32))


def windows_of(
    data: bytes,
    rule: SoundSpec,
    limits: SoundLimits | None = None,
    pcm: str = "",
    at_once: int = WINDOWS_AT_ONCE,
    count: Callable[[int], None] = lambda samples: None,
) -> Iterator[FloatArray]:
    """The windows of an encoded sound, `[t <= at_once, context + window]` at a time. Raises as `mono_blocks`.

    count: told how many samples (at the rule's rate) each block had.
    """  # fmt: skip
    cut, made = Windows(rule), 0
    for block in mono_blocks(data, rule.sample_rate, limits, pcm):
        count(len(block))
        for start in range(0, len(block), rule.step * at_once):
            full = cut.feed(block[start : start + rule.step * at_once])
            made += len(full)
            if len(full):
                yield full
    if len(last := cut.end(made)):
        yield last
