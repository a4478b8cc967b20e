"""When a server counts as hung."""

from __future__ import annotations

from serving.triton.supervisor import HUNG_SECONDS, Silence


def test_silence_is_counted_from_the_first_check_without_an_answer() -> None:
    silence = Silence()
    assert [silence.after(t, t < 3) for t in (1.0, 2.0, 3.0, 4.0, 14.0)] == [0, 0, 0, 1, 11]
    assert silence.after(15.0, True) == 0 and silence.after(16.0, False) == 0


def test_time_in_which_nobody_asked_is_no_silence() -> None:
    silence = Silence()
    assert silence.after(0.0, True) == 0
    assert silence.after(60.0, False) < HUNG_SECONDS, "this process slept for a minute, the server did not"
