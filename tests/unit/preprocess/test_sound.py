"""Sound in: formats, rates, channels, limits before decoding, and windows that do not depend on how it was cut."""

from __future__ import annotations

import io
import tracemalloc

import numpy as np
import pytest
import soundfile

from serving.errors import ParameterInvalid
from serving.errors_audio import AudioInvalid, AudioTooLong, AudioUnsupported
from serving.preprocess.audio import (
    Resampler,
    SoundLimits,
    Windows,
    is_sound,
    mono_blocks,
    read_sound_header,
    windows_of,
)
from serving.spec import SoundSpec
from serving.types import FloatArray

RULE = SoundSpec(sample_rate=16_000, window=512, context=64)


def tone(seconds: float, rate: int = 16_000, hertz: float = 440.0) -> FloatArray:
    at = np.arange(int(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * hertz * at)).astype(np.float32)


def file_of(samples: FloatArray, rate: int = 16_000, channels: int = 1, kind: str = "WAV") -> bytes:
    out = io.BytesIO()
    soundfile.write(out, np.repeat(samples[:, None], channels, axis=1), rate, format=kind, subtype="PCM_16")
    return out.getvalue()


def heard(data: bytes, rate: int = 16_000, pcm: str = "") -> FloatArray:
    return np.concatenate(list(mono_blocks(data, rate, pcm=pcm)))


def test_wav_flac_and_bare_samples_are_heard_alike() -> None:
    samples = tone(0.7)
    bare = (np.round(samples * 32767)).astype("<i2")
    wav, flac = (file_of(bare.astype(np.float32) / 32768, kind=kind) for kind in ("WAV", "FLAC"))
    first = heard(wav)
    assert np.array_equal(first, heard(flac)) and np.array_equal(first, heard(bare.tobytes(), pcm="16000"))
    assert np.array_equal(heard(np.repeat(bare, 2).tobytes(), pcm="16000x2"), first)
    assert is_sound(wav) and is_sound(flac) and not is_sound(b"RIFF0000WEBP")


@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (44_100, 2), (48_000, 8), (96_000, 1)])
def test_any_rate_and_up_to_eight_channels_become_the_networks(rate: int, channels: int) -> None:
    got = heard(file_of(tone(1.0, rate), rate, channels))
    wanted = tone(1.0)
    assert abs(len(got) - 16_000) <= 1
    inner = slice(800, 15_000)  # the resampler's filter needs both sides
    assert np.abs(got[inner] - wanted[inner]).max() < 0.01


def test_channels_are_mixed_as_their_mean() -> None:
    data = io.BytesIO()
    soundfile.write(data, np.stack([tone(0.2), -tone(0.2)], axis=1), 16_000, format="WAV", subtype="FLOAT")
    assert np.abs(heard(data.getvalue())).max() < 1e-6


def test_resampling_does_not_depend_on_the_blocks() -> None:
    samples = tone(0.5, 44_100)
    whole, parts = Resampler(44_100, 16_000), Resampler(44_100, 16_000)
    once = np.concatenate([whole.feed(samples), whole.end()])
    cut = np.concatenate([*(parts.feed(piece) for piece in np.array_split(samples, 37)), parts.end()])
    assert len(once) == len(cut) and np.abs(once - cut).max() < 1e-6


@pytest.mark.parametrize("length", [1, 511, 512, 513, 5000])
def test_windows_of_a_stream_are_those_of_the_whole(length: int) -> None:
    samples = np.random.default_rng(length).normal(0, 0.1, length).astype(np.float32)
    whole = np.pad(samples, (RULE.context, -length % RULE.window))
    wanted = np.stack([whole[a : a + 576] for a in range(0, len(whole) - RULE.context, RULE.window)])
    cut, got = Windows(RULE), []
    for piece in np.array_split(samples, 7):
        got.append(cut.feed(piece))
    got.append(cut.end(sum(map(len, got))))
    assert np.array_equal(np.concatenate(got), wanted)


def test_overlapping_windows_show_every_sample_once_more_at_most() -> None:
    rule = SoundSpec(sample_rate=16_000, window=400, hop=160)
    data = file_of(tone(0.1))
    windows = np.concatenate(list(windows_of(data, rule)))
    assert windows.shape[1] == 400
    assert len(windows) == -(-(1600 - 400) // 160) + 1


def test_a_long_silent_file_is_heard_in_bounded_memory() -> None:
    minutes = 10
    data = io.BytesIO()
    with soundfile.SoundFile(data, "w", 16_000, 1, format="FLAC", subtype="PCM_16") as file:
        for _ in range(minutes):
            file.write(np.zeros(16_000 * 60, np.int16))
    sound = data.getvalue()
    tracemalloc.start()
    count = sum(len(windows) for windows in windows_of(sound, RULE))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == minutes * 60 * 16_000 // 512 and peak < 24 << 20  # whole: 38 MB of samples, 43 MB of windows


@pytest.mark.parametrize(
    ("data", "error", "about"),
    [
        (b"", AudioInvalid, "empty"),
        (b"\x00" * 100, AudioInvalid, "no sound file"),
        (b"OggS" + b"\x00" * 60, AudioUnsupported, "Ogg"),
        (b"ID3" + b"\x00" * 60, AudioUnsupported, "MP3"),
        (file_of(tone(0.1))[:20], AudioInvalid, "header"),
        (file_of(tone(0.1, 4_000), 4_000), AudioUnsupported, "4000 Hz"),
        (file_of(tone(0.01, 192_000), 192_000), AudioUnsupported, "192000 Hz"),
        (file_of(tone(0.05), channels=9), AudioUnsupported, "9 channels"),
        (file_of(np.zeros(0, np.float32)), AudioInvalid, "0 samples"),
        (file_of(tone(1.0), kind="FLAC")[:-4000], AudioInvalid, "damaged|ends after"),
    ],
)
def test_bad_sound_is_refused_by_name(data: bytes, error: type[Exception], about: str) -> None:
    with pytest.raises(error, match=about):
        heard(data)


def test_limits_are_checked_on_the_header_before_anything_is_decoded() -> None:
    data = file_of(tone(2.0))
    assert read_sound_header(data).seconds == 2
    with pytest.raises(AudioTooLong, match="2 s of sound: expected at most 1"):
        next(mono_blocks(data, 16_000, SoundLimits(max_seconds=1)))


def test_samples_that_are_no_numbers_are_refused() -> None:
    out = io.BytesIO()
    soundfile.write(out, np.array([0.1, np.nan, 0.2] * 100, np.float32), 16_000, format="WAV", subtype="FLOAT")
    with pytest.raises(AudioInvalid, match="no numbers"):
        heard(out.getvalue())


@pytest.mark.parametrize("pcm", ["16k", "16000x9", "16000x0", "-16000", "16000 x 2"])
def test_a_wrong_pcm_word_is_a_parameter_error(pcm: str) -> None:
    with pytest.raises(ParameterInvalid, match="expected RATE"):
        heard(b"\x00\x00", pcm=pcm)


def test_bare_samples_of_a_broken_length_are_refused() -> None:
    with pytest.raises(AudioInvalid, match="multiple of 4"):
        heard(b"\x00\x00\x00", pcm="16000x2")


def test_a_wav_that_is_cut_off_is_refused_and_one_from_a_pipe_is_heard() -> None:
    data = file_of(tone(1.0))
    with pytest.raises(AudioInvalid, match="cut off: 1000 bytes"):
        heard(data[:-1000])
    place = data.index(b"data") + 4
    for unknown in (b"\xff\xff\xff\xff", b"\x00\xf0\xff\x7f"):
        piped = data[:place] + unknown + data[place + 4 :]
        assert np.array_equal(heard(piped), heard(data))
