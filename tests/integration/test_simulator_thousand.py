"""A thousand seeds x 2 sources x 200 frames under random faults F1 to F14: nothing unaccounted, no box astray."""

from __future__ import annotations

import pytest

from serving.testing.simulator.__main__ import play


@pytest.mark.timeout(600)
def test_a_thousand_seeds_balance(capsys: pytest.CaptureFixture[str]) -> None:
    tally = play(1000, jobs=2)
    with capsys.disabled():
        print("\n" + tally.line())
    assert tally.wrong == {}
    assert tally.too_rare() == []
