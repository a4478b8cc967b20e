"""Triton's lines as ours. The lines are copied from a real run of Triton 2.51."""

from __future__ import annotations

import pytest

from serving.triton.logs import LogLine, translate


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "2026-11-22T08:59:41Z I 7631 model_lifecycle.cc:839] \"successfully loaded 'echo'\"\n",
            LogLine("info", "model_lifecycle", "successfully loaded 'echo'"),
        ),
        (
            '2026-11-22T09:05:34Z E 8209 pb_stub.cc:714] "Failed: boo\\n\\nAt:\\n  model.py(14)"',
            LogLine("error", "pb_stub", "Failed: boo\n\nAt:\n  model.py(14)"),
        ),
        (
            "I1122 09:06:16.249048 13119 pb_stub.cc:2145]  Non-graceful termination detected. ",
            LogLine("info", "pb_stub", "Non-graceful termination detected."),
        ),
        (
            '2026-11-22T08:59:41Z E 7631 server.cc:241] "CudaDriverHelper has not been initialized."',
            LogLine("debug", "server", "CudaDriverHelper has not been initialized."),
        ),
        ("printed by a model\n", LogLine("info", "stub", "printed by a model")),
        ("2026-11-22T08:59:41Z I 7631 server.cc:604] \n", None),
        ("+------------------+------+", None),
        ("| echo  | 1       | READY  |", None),
        ("\n", None),
    ],
)
def test_lines(text: str, expected: LogLine | None) -> None:
    assert translate(text) == expected
