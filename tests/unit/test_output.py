"""Tables of the command line: values are shown as they are."""

from __future__ import annotations

import pytest

from serving.cli.output import print_table


@pytest.mark.parametrize("value", ["rtsp://[fd00::7]/live", "[/x]", "[bold]gate[/bold]", ":camera:", "\\[a]"])
def test_a_value_that_looks_like_markup_is_printed_as_it_is(capsys: pytest.CaptureFixture[str], value: str) -> None:
    print_table(value, [{"source": "gate", "address": value}])
    title, *table = capsys.readouterr().out.splitlines()
    assert title.strip() == value
    assert any(value in line for line in table)
    print_table(value, [])
    assert capsys.readouterr().out == f"{value}: none\n"
