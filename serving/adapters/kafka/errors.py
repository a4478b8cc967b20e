"""From librdkafka's error codes to our classes."""

from __future__ import annotations

from confluent_kafka import KafkaError, KafkaException

from serving.errors import CommitRefused, LogError, LogUnavailable, MemberFenced, RecordTooLarge, TopicUnknown

_CLASSES: dict[int, type[LogError]] = {
    KafkaError.MSG_SIZE_TOO_LARGE: RecordTooLarge,
    KafkaError.UNKNOWN_TOPIC_OR_PART: TopicUnknown,
    KafkaError.UNKNOWN_TOPIC_ID: TopicUnknown,
    KafkaError._UNKNOWN_TOPIC: TopicUnknown,
    KafkaError._UNKNOWN_PARTITION: TopicUnknown,
    KafkaError.ILLEGAL_GENERATION: CommitRefused,
    KafkaError.UNKNOWN_MEMBER_ID: CommitRefused,
    KafkaError.FENCED_INSTANCE_ID: CommitRefused,
    KafkaError._ASSIGNMENT_LOST: CommitRefused,
    KafkaError._FATAL: CommitRefused,  # the member is out of its group for good; what it reads next says why
    KafkaError._TRANSPORT: LogUnavailable,
    KafkaError._TIMED_OUT: LogUnavailable,
    KafkaError._MSG_TIMED_OUT: LogUnavailable,
    KafkaError._ALL_BROKERS_DOWN: LogUnavailable,
    KafkaError._WAIT_COORD: LogUnavailable,
    KafkaError._RESOLVE: LogUnavailable,
    KafkaError.REBALANCE_IN_PROGRESS: LogUnavailable,
    KafkaError.NOT_ENOUGH_REPLICAS: LogUnavailable,
    KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND: LogUnavailable,
    KafkaError.COORDINATOR_NOT_AVAILABLE: LogUnavailable,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS: LogUnavailable,
    KafkaError.NOT_COORDINATOR: LogUnavailable,
    KafkaError.LEADER_NOT_AVAILABLE: LogUnavailable,
    KafkaError.NOT_LEADER_FOR_PARTITION: LogUnavailable,
    KafkaError.FENCED_LEADER_EPOCH: LogUnavailable,
    KafkaError.UNKNOWN_LEADER_EPOCH: LogUnavailable,
    KafkaError.OFFSET_NOT_AVAILABLE: LogUnavailable,
    KafkaError.REPLICA_NOT_AVAILABLE: LogUnavailable,
    KafkaError.REQUEST_TIMED_OUT: LogUnavailable,
    KafkaError.KAFKA_STORAGE_ERROR: LogUnavailable,
}
_HINTS: dict[type[LogError], str] = {
    TopicUnknown: "lockstep topics apply",
    MemberFenced: "another process runs with this --member: give each its own, each system a kafka_prefix",
}


def translated(error: KafkaError | KafkaException, doing: str) -> LogError:
    """Our error for librdkafka's. `doing` says what was being done, with the topic or group."""
    found: KafkaError = error.args[0] if isinstance(error, KafkaException) else error
    kind = _CLASSES.get(found.code(), LogError)
    if found.code() == KafkaError._FATAL and "fenced" in found.str():  # by a member of the same name; no code says so
        kind = MemberFenced
    hint = _HINTS.get(kind, "")
    return kind(f"{doing}: {found.str()} [{found.name()}]", hint=hint)
