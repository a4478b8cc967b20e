"""The gateway keeps what /openapi.json promises: schemathesis, all checks, right and wrong data, stateful (S18)."""

from __future__ import annotations

from pathlib import Path

from serving.testing.api_fuzz import fuzz
from serving.testing.gateway_process import gateways


def test_s18_every_operation_conforms_and_works(tmp_path: Path) -> None:
    with gateways(tmp_path) as start:
        gateway = start(workers=1, only=("digits", "persons", "adder"), streams=True)
        report = fuzz(gateway.url, tmp_path, examples=50)
        assert report.passed, report.output[-8000:]
        assert not report.operations - report.succeeded
        assert len(report.operations) > 20
        assert "Traceback" not in gateway.log.read_text()
