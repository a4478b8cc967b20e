"""Sound on the log: pieces come back, and what is neither a picture nor sound as it says is refused by its field."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from records_data import JPEG  # type: ignore[import-not-found]

from serving.errors import RecordInvalid
from serving.frames import Frame, Picture, SourceKind, StreamInfo, TimelineRecord
from serving.preprocess.audio import wav_of
from serving.records import (
    FrameMessage,
    StreamMessage,
    TimelineMessage,
    decode_frame,
    decode_stream,
    decode_timeline,
    encode_frame,
    encode_stream,
    encode_timeline,
)
from serving.records.fields import Encoded
from serving.spec import SoundSpec

WAV = wav_of(np.linspace(-1, 1, 512, dtype=np.float32), 16_000)
PIECE = Frame("talk-sound", 1, 0, 0, 0, Fraction(1, 16_000), ("ears",), 0, Picture(encoded=WAV))
SOUND = StreamMessage("talk-sound", "talk.mkv", ("ears",), sound=SoundSpec(window=512, hop=160))


def decoded(record: Encoded) -> FrameMessage:
    return decode_frame(*record, arrival_mono_ns=0)


@pytest.mark.parametrize(("payload", "kind"), [(WAV, b"audio/wav"), (b"fLaC" + bytes(60), b"audio/flac")])
def test_a_piece_comes_back_and_its_content_type_tells_readers_of_pictures_to_pass_over_it(
    payload: bytes, kind: bytes
) -> None:
    message = FrameMessage(replace(PIECE, picture=Picture(encoded=payload)))
    record = encode_frame(message, payload)
    assert dict(record.headers)["content-type"] == kind
    assert not {"width", "height", "scale"} & {name for name, _ in record.headers}
    assert decoded(record) == message
    bare = record._replace(headers=tuple(h for h in record.headers if h[0] != "content-type"))
    assert decoded(bare) == message, "a stranger may leave it out"


@pytest.mark.parametrize(
    ("value", "header", "field"),
    [
        (JPEG, ("content-type", b"audio/wav"), "value"),
        (None, ("content-type", b"audio/wav"), "value"),
        (b"OggS" + bytes(60), ("content-type", b"audio/ogg"), "value"),
        (WAV, ("content-type", b"image/jpeg"), "content-type"),
        (WAV, ("width", b"640"), "width"),
        (WAV, ("scale", b"1/2"), "scale"),
    ],
)
def test_what_is_not_what_it_says_is_refused(value: bytes | None, header: tuple[str, bytes], field: str) -> None:
    record = encode_frame(FrameMessage(PIECE), WAV)
    kept = tuple(h for h in record.headers if h[0] != header[0])
    with pytest.raises(RecordInvalid) as caught:
        decoded(record._replace(value=value, headers=(*kept, header)))
    assert caught.value.field == field


def test_a_claim_says_that_its_frames_are_sound_and_one_that_says_nothing_means_pictures() -> None:
    info = StreamInfo("talk-sound", SourceKind.FILE, Fraction(1, 16_000), 1, 1, "flac", sample_rate=16_000)
    claim = TimelineRecord("talk-sound", 1, "ingest-1", info.time_base, 0, 0, None, ("ears",))
    record = encode_timeline(TimelineMessage(claim, info))
    assert decode_timeline(*record).info.sample_rate == 16_000
    document = json.loads(record.value or b"{}")
    del document["sample_rate"]
    assert decode_timeline(record.key, json.dumps(document).encode()).info.sample_rate == 0


def test_a_registered_sound_comes_back_and_pictures_do_not_mention_it() -> None:
    assert decode_stream(*encode_stream(SOUND)) == SOUND
    assert "sound" not in json.loads(encode_stream(replace(SOUND, sound=None)).value or b"{}")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda s: s.update(sample_rate=100), "sound.sample_rate"),
        (lambda s: s.update(window="512"), "sound.window"),
        (lambda s: s.pop("window"), "sound.window"),
        (lambda s: s.update(hop=513), "sound.hop"),
    ],
)
def test_a_registered_sound_that_nobody_could_cut_is_refused(
    change: Callable[[dict[str, Any]], Any], field: str
) -> None:
    document = json.loads(encode_stream(SOUND).value or b"{}")
    change(document["sound"])
    with pytest.raises(RecordInvalid) as caught:
        decode_stream(b"talk-sound", json.dumps(document).encode())
    assert caught.value.field == field
