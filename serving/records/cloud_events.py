"""CloudEvents 1.0 attributes as Kafka headers, binary content mode (CNCF, Kafka protocol binding).

A record is one event: `ce_id` is unique within `ce_source`, so a repeated delivery is seen as what it is.
"""

from __future__ import annotations

import os

from serving.ports_log import Headers
from serving.records.fields import Fields

HEADERS = ("ce_specversion", "ce_type", "ce_source", "ce_id", "content-type", "traceparent")


def attributes(kind: str, source_id: str, event_id: str, content_type: str, traceparent: str = "") -> Headers:
    """The headers of one event. kind: frame, result ...; the version of its format stands in `ce_type`."""
    headers: Headers = (
        ("ce_specversion", b"1.0"),
        ("ce_type", f"lockstep.{kind}.v1".encode()),
        ("ce_source", f"/sources/{source_id}".encode()),
        ("ce_id", event_id.encode()),
        ("content-type", content_type.encode()),
    )
    return (*headers, ("traceparent", traceparent.encode())) if traceparent else headers


def new_traceparent() -> str:
    """A trace that begins here (W3C Trace Context), not sampled: whoever traces may say otherwise."""
    return f"00-{os.urandom(16).hex()}-{os.urandom(8).hex()}-00"


def check(fields: Fields, kind: str) -> None:
    """Strangers may leave the attributes out; what they write must be of this kind and version."""
    if fields.text("ce_specversion", "1.0") != "1.0":
        fields.wrong("ce_specversion", "1.0")
    wanted = f"lockstep.{kind}.v1"
    if fields.text("ce_type", wanted) != wanted:
        fields.wrong("ce_type", wanted)
