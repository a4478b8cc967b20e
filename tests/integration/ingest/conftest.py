"""One broker for all tests of the run."""

from __future__ import annotations

import pytest
from kafka_support import shared_kafka

from deploy.embedded.kafka import EmbeddedKafka


@pytest.fixture
def kafka(request: pytest.FixtureRequest) -> EmbeddedKafka:
    return shared_kafka(request)
