"""Read the named code blocks of a page, so that tests run what a reader would copy."""

from __future__ import annotations

import re
from pathlib import Path

BLOCK = re.compile(r"<!-- block: (?P<name>\S+) -->\n```\w*\n(?P<body>.*?)```", re.DOTALL)


def blocks_of(page: Path) -> dict[str, str]:
    """Name -> text, in page order; a page without blocks is an error of the page."""
    found = {match["name"]: match["body"] for match in BLOCK.finditer(page.read_text("utf-8"))}
    if not found:
        raise ValueError(f"{page}: no `<!-- block: name -->` before a code block")
    return found
