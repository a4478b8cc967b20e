"""murmur2 as Kafka's Java client uses it to choose a partition, so that every client of ours agrees with it.

Austin Appleby's MurmurHash2 (32 bits) with the seed of `org.apache.kafka.common.utils.Utils.murmur2`. librdkafka's own
default is CRC32: producers set `partitioner=murmur2_random` (docs/kafka.md).
"""

from __future__ import annotations

_SEED = 0x9747B28C
_M = 0x5BD1E995
_MASK = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """The hash as an unsigned 32-bit number."""
    length = len(data)
    h = (_SEED ^ length) & _MASK
    whole = length & ~3
    for at in range(0, whole, 4):
        k = int.from_bytes(data[at : at + 4], "little") * _M & _MASK
        k ^= k >> 24
        h = (h * _M & _MASK) ^ (k * _M & _MASK)
    if length > whole:
        h ^= int.from_bytes(data[whole:], "little")
        h = h * _M & _MASK
    h ^= h >> 13
    h = h * _M & _MASK
    return h ^ h >> 15


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key among so many, as Kafka's default partitioner says."""
    if partitions < 1:
        raise ValueError(f"partition_of: expected at least one partition, got {partitions}")
    return (murmur2(key) & 0x7FFFFFFF) % partitions
