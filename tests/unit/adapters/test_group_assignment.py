"""What a group keeps of its members' assignments, as another client's code writes it."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

with warnings.catch_warnings():  # its own, as it is imported
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment

from serving.adapters.kafka.owners import assigned_to

GIVEN = [("line.frames", [0, 3, 11]), ("übung", [2]), ("none", [])]


@pytest.mark.parametrize("version", [0, 1, 2, 3])
@pytest.mark.parametrize("user_data", [None, b"sticky"])
def test_an_assignment_of_kafka_python_is_read(version: int, user_data: bytes | None) -> None:
    written = ConsumerProtocolAssignment(version=version, assigned_partitions=GIVEN, user_data=user_data).encode()
    assert written[:2] == version.to_bytes(2, "big")
    assert assigned_to(written) == {("line.frames", 0), ("line.frames", 3), ("line.frames", 11), ("übung", 2)}


def test_nothing_is_given_and_a_cut_is_an_error() -> None:
    assert assigned_to(b"") == set()
    assert assigned_to(b"\0\1\0\0\0\0\xff\xff\xff\xff") == set()
    with pytest.raises(ValueError, match="cut off after 10 bytes"):
        assigned_to(b"\0\1\0\0\0\1\0\4fr")


def test_nothing_of_ours_makes_a_call_that_can_end_the_process() -> None:
    """librdkafka issue 4605: these go to a group's coordinator, and a connection that is lost meanwhile is an abort."""
    named = re.compile(
        r"\.(describe_consumer_groups|(list|alter|delete)_consumer_group_offsets|delete_consumer_groups)\("
    )
    files = sorted(Path("serving").rglob("*.py"))
    assert len(files) > 100
    assert [path for path in files if named.search(path.read_text())] == []
