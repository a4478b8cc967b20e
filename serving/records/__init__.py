"""What lies on the log: records of every topic, written and strictly read (docs/kafka.md).

Each topic has one message type here, an `encode_*` to key, value and headers, and a `decode_*` that raises
RecordInvalid with the name of the field that is wrong. Whoever reads a topic sends what does not decode to
`dead_letter`, reason schema; it never reaches a picture. Nothing here is Python's own format: a stranger writes and
reads the same by hand.
"""

from serving.records.dead_letters import DeadLetter, decode_dead_letter, encode_dead_letter
from serving.records.fields import Encoded
from serving.records.frames import FrameMessage, decode_frame, encode_frame
from serving.records.marks import AttemptMark
from serving.records.outcomes import OutcomeMessage, decode_outcome, encode_outcome
from serving.records.results import ResultMessage, decode_result, encode_result, result_document
from serving.records.streams import (
    StreamMessage,
    StreamState,
    decode_stream,
    encode_forgotten_stream,
    encode_stream,
)
from serving.records.timelines import (
    TimelineMessage,
    decode_timeline,
    encode_timeline,
    encode_withdrawn_timeline,
)

TOPICS = ("frames", "results", "outcomes", "timelines", "streams", "dead_letter")
PARTITIONED_ALIKE = ("frames", "results", "outcomes", "timelines")  # equal counts: a source has one number in all

__all__ = [
    "PARTITIONED_ALIKE",
    "TOPICS",
    "AttemptMark",
    "DeadLetter",
    "Encoded",
    "FrameMessage",
    "OutcomeMessage",
    "ResultMessage",
    "StreamMessage",
    "StreamState",
    "TimelineMessage",
    "decode_dead_letter",
    "decode_frame",
    "decode_outcome",
    "decode_result",
    "decode_stream",
    "decode_timeline",
    "encode_dead_letter",
    "encode_forgotten_stream",
    "encode_frame",
    "encode_outcome",
    "encode_result",
    "encode_stream",
    "encode_timeline",
    "encode_withdrawn_timeline",
    "result_document",
]
