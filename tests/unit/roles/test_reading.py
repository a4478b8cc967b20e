"""What a source with models that hear becomes: pictures and sound, or sound alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx import TensorProto, helper
from triton_support import publish, redness_model

from serving.adapters.video import AddressSource, ReaderOptions
from serving.errors import ParameterInvalid
from serving.frames import SourceKind
from serving.records import StreamMessage, decode_stream, encode_stream
from serving.roles.reading import source_of, split
from serving.spec import SoundSpec
from serving.streams.sound_source import SoundSource


def ears(repository: Path, name: str, **sound: int) -> None:
    ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, ["n", 1]) for end in ("window", "p")]
    graph = helper.make_graph([helper.make_node("Identity", ["window"], ["p"])], name, ends[:1], ends[1:])
    rule = {"window": 512, "context": 64} | sound
    publish(repository, name, graph, {"task": "audio", "sound": rule, "labels": ["loud"], "outputs": ["p"],
                                      "preprocess": None})  # fmt: skip


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    redness_model(tmp_path)
    ears(tmp_path, "ears")
    ears(tmp_path, "others", hop=256)
    return tmp_path


def test_the_sound_is_a_source_beside_the_pictures_and_alone_it_has_the_name(repository: Path) -> None:
    talk = StreamMessage("talk", "talk.mkv", ("redness", "ears", "elsewhere"), every=3, mixed=True, supervised=False)
    seen, heard = split(talk, repository)
    assert (seen.source_id, seen.pipelines, seen.every, seen.sound) == ("talk", ("redness", "elsewhere"), 3, None)
    assert (heard.source_id, heard.pipelines, heard.sound) == ("talk-sound", ("ears",), SoundSpec(window=512))
    assert (heard.every, heard.mixed, heard.supervised) == (1, False, False), "each piece is heard, none is shown"
    (alone,) = split(StreamMessage("talk", "talk.mkv", ("ears",)), repository)
    assert alone.source_id == "talk" and alone.sound is not None
    pictures = StreamMessage("gate", "rtsp://10.0.0.7/live", ("redness",))
    assert split(pictures, repository) == [pictures] == split(pictures, repository / "none")


def test_models_that_hear_other_windows_and_a_name_that_is_taken_are_refused(repository: Path) -> None:
    with pytest.raises(ParameterInvalid, match="ears and others hear other windows"):
        split(StreamMessage("talk", "talk.mkv", ("ears", "others")), repository)
    taken = "t" * 58 + "-sound"
    with pytest.raises(ParameterInvalid, match="is the name of its sound too"):
        split(StreamMessage(taken, "talk.mkv", ("redness", "ears")), repository)


def test_what_a_record_is_read_as_survives_the_log(repository: Path) -> None:
    for stream in split(StreamMessage("talk", "talk.mkv", ("redness", "ears")), repository):
        told = decode_stream(*encode_stream(stream))
        assert told is not None
        source = source_of(told, ReaderOptions())
        assert isinstance(source, SoundSource if told.sound else AddressSource) and source.kind is SourceKind.FILE
