"""What our clients tell librdkafka, and why. Nothing of it comes from a user but the broker's address."""

from __future__ import annotations

from dataclasses import dataclass

from serving.ports_log import MAX_RECORD_BYTES, GroupOptions

Config = dict[str, str | int | float | bool]
GATHERED_BYTES = 1 << 20  # more than comes in a tenth of a second: who gathers is answered by time


@dataclass(frozen=True, slots=True)
class KafkaOptions:
    """bootstrap: host:port, comma-separated. client_id: shown in the broker's logs and quotas.

    queue_bytes: what one producer holds unacknowledged, and what one consumer reads ahead, at most (G11).
    delivery_timeout_s: after so long without acknowledgement a record is reported as failed.
    topic_patience_s: a topic that the broker does not know is an error after so long; new ones take a moment.
    """

    bootstrap: str
    client_id: str = "lockstep"
    queue_bytes: int = 64 << 20
    queue_records: int = 10_000
    delivery_timeout_s: float = 30.0
    linger_ms: float = 2.0
    topic_patience_s: float = 10.0

    def __post_init__(self) -> None:
        if not self.bootstrap or any(":" not in part for part in self.bootstrap.split(",")):
            raise ValueError(f"KafkaOptions.bootstrap: expected host:port, got {self.bootstrap!r}")
        if self.queue_bytes < 2 * MAX_RECORD_BYTES or self.queue_records < 1:
            raise ValueError(f"KafkaOptions: expected room for two of the largest records, got {self}")


def common(options: KafkaOptions) -> Config:
    """Of every client: reconnect quickly, so that a broker is used within a second of its return."""
    return {
        "bootstrap.servers": options.bootstrap,
        "client.id": options.client_id,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 1000,
        "socket.connection.setup.timeout.ms": 3000,  # begun anew, before the kernel's own retries are seconds apart
        "topic.metadata.refresh.interval.ms": int(options.topic_patience_s * 1000),
        "socket.keepalive.enable": True,
        "socket.timeout.ms": 10_000,  # a broker that froze with our request in hand is asked anew, not in a minute
        "log.connection.close": False,
        "log_level": 2,  # what matters comes as an error of a call; a line for every retry would bury it
    }


def producing(options: KafkaOptions) -> Config:
    """Idempotent, acknowledged by all in-sync replicas, partition by murmur2 as every other Kafka client does.

    No compression: pictures are compressed already. The queue is bounded; `LogFull` says that it is full.
    """
    config: Config = {
        "enable.idempotence": True,
        "acks": "all",
        "partitioner": "murmur2_random",
        "linger.ms": options.linger_ms,
        "message.max.bytes": MAX_RECORD_BYTES,
        "queue.buffering.max.kbytes": options.queue_bytes >> 10,
        "queue.buffering.max.messages": options.queue_records,
        "delivery.timeout.ms": int(options.delivery_timeout_s * 1000),
        "topic.metadata.propagation.max.ms": 2000,
    }
    return common(options) | config


def reading(options: KafkaOptions) -> Config:
    """Positions are ours: no automatic commit, no automatic reset. A record comes at once; `fetch.wait.max.ms` is how
    often a reader of quiet topics asks again, and each time costs the broker about a millisecond."""
    config: Config = {
        "group.id": f"{options.client_id}-reader",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "allow.auto.create.topics": False,
        "fetch.wait.max.ms": 500,
        "fetch.message.max.bytes": MAX_RECORD_BYTES,
        "queued.max.messages.kbytes": options.queue_bytes >> 12,
        "queued.min.messages": 1000,
    }
    return common(options) | config


def joining(options: KafkaOptions, group: GroupOptions) -> Config:
    """A member of a group: the classic protocol, whose heartbeats librdkafka sends from a thread of its own."""
    session_ms = int(group.session_timeout_s * 1000)
    config: Config = {
        "group.id": group.group,
        "group.protocol": "classic",
        "session.timeout.ms": session_ms,
        "heartbeat.interval.ms": min(500, session_ms // 3),
        "max.poll.interval.ms": max(session_ms, int(group.max_poll_interval_s * 1000)),
        "partition.assignment.strategy": group.assignor.value,
    }
    fetch: Config = {"fetch.wait.max.ms": 100}  # what an idle partition costs one that was paused
    if group.gathers:
        fetch["fetch.min.bytes"] = GATHERED_BYTES
    member: Config = {"group.instance.id": group.member} if group.member else {}
    return reading(options) | config | fetch | member
