"""murmur2 against values of Kafka's own test (`UtilsTest.testMurmur2`), and its Java-compatible partition."""

from __future__ import annotations

import pytest

from serving.murmur2 import murmur2, partition_of

KNOWN = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize("key", KNOWN)
def test_known_values(key: bytes) -> None:
    assert murmur2(key) == KNOWN[key] & 0xFFFFFFFF


def test_a_partition_is_within_bounds_and_needs_partitions() -> None:
    assert {partition_of(str(n).encode(), 5) for n in range(200)} == set(range(5))
    with pytest.raises(ValueError, match="at least one partition"):
        partition_of(b"k", 0)
