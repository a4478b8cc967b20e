"""Real dependencies on one machine without containers: a Kafka broker of one node, for development and tests."""
