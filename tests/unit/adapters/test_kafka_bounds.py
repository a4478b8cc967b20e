"""Where partitions begin and end: asked again where nobody answered, within the caller's time."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import TopicPartition as RdPartition

from serving.adapters.kafka import KafkaOptions
from serving.adapters.kafka.bounds import KafkaBounds
from serving.errors import LogUnavailable, TopicUnknown
from serving.ports_log import TopicPartition

PLACES = [TopicPartition("t", number) for number in range(2)]


class Offset:
    def __init__(self, offset: int) -> None:
        self.offset = offset


class Admin:
    """Gives one answer after the other: an offset, or librdkafka's error."""

    def __init__(self, *answers: int | KafkaError, partitions: int = 2) -> None:
        self.answers, self.asked, self._partitions = list(answers), 0, partitions

    def list_offsets(self, wanted: dict[RdPartition, Any], request_timeout: float) -> dict[RdPartition, Future[Any]]:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        futures: dict[RdPartition, Future[Any]] = {}
        for part in wanted:
            futures[part] = Future()
            if isinstance(answer, KafkaError):
                futures[part].set_exception(KafkaException(answer))
            else:
                futures[part].set_result(Offset(answer))
        return futures

    def list_topics(self, topic: str, timeout: float) -> Any:
        return SimpleNamespace(topics={topic: SimpleNamespace(error=None, partitions=range(self._partitions))})


def bounds_of(admin: Admin, timeout_s: float = 5.0) -> dict[TopicPartition, tuple[int, int]]:
    bounds = KafkaBounds(KafkaOptions("127.0.0.1:9"))
    bounds._admin = admin  # type: ignore[assignment]
    return bounds.of(PLACES, timeout_s)


@pytest.mark.parametrize(
    "passing",
    [-1001, KafkaError(KafkaError.FENCED_LEADER_EPOCH), KafkaError(KafkaError.OFFSET_NOT_AVAILABLE),
     KafkaError(KafkaError._NOENT)],
    ids=["connection lost", "broker began anew", "leader just chosen", "no leader known"],
)  # fmt: skip
def test_what_passes_is_asked_again(passing: int | KafkaError) -> None:
    admin = Admin(passing, passing, 3, 7)
    assert bounds_of(admin) == dict.fromkeys(PLACES, (3, 7)) and admin.asked >= 4


@pytest.mark.parametrize("passing", [-1001, KafkaError(KafkaError._NOENT)], ids=["no answer", "no leader known"])
def test_its_time_is_the_callers(passing: int | KafkaError) -> None:
    with pytest.raises(LogUnavailable, match="t/0 and 1 more: no answer within 0.2 s"):
        bounds_of(Admin(passing), 0.2)


def test_a_partition_that_is_not_there_is_unknown_once_every_broker_had_time_to_hear_of_it() -> None:
    admin = Admin(KafkaError(KafkaError._UNKNOWN_PARTITION), partitions=1)
    with pytest.raises(TopicUnknown, match="it has 1 partitions, no 1"):
        bounds_of(admin)
    assert admin.asked > 4
