"""The page: one HTML file that holds its pictures itself. Names and answers come from outside and are escaped."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from serving.types import PixelArray
from tools.workloads.row import Row, Shown

WIDEST, LEAST = 720, 240  # pixels of a picture on the page; smaller ones are enlarged
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 24px auto; max-width: 1240px; padding: 0 16px; color: #222;
       background: #fafafa }
section { background: #fff; border: 1px solid #ddd; border-radius: 6px; padding: 4px 18px 18px; margin: 18px 0 }
section.failed { border-color: #b3261e } .failed b, .bad { color: #b3261e }
.pictures { display: flex; flex-wrap: wrap; gap: 14px; align-items: flex-start }
figure { margin: 0 } figcaption, small { color: #666; font-size: 13px }
.tables { display: flex; flex-wrap: wrap; gap: 28px; align-items: flex-start; margin-top: 12px }
table { border-collapse: collapse }
td, th { border-bottom: 1px solid #e4e4e4; padding: 3px 12px 3px 0; text-align: left }
nav a { margin-right: 14px }
"""


def render(rows: Sequence[tuple[Row, Shown | str, float]], facts: Mapping[str, Any]) -> str:
    """rows: each with what it shows, or why it failed, and the seconds it took."""
    failed = [row.title for row, shown, _ in rows if isinstance(shown, str)]
    verdict = f'<p class="bad"><b>Failed: {html.escape(", ".join(failed))}</b></p>' if failed else ""
    links = "".join(f'<a href="#row{row.place}">{html.escape(row.title)}</a>' for row, _, _ in rows)
    told = ", ".join(f"{name} {value}" for name, value in facts.items())
    sections = "\n".join(_section(row, shown, seconds) for row, shown, seconds in rows)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Lockstep: workloads</title><style>{_STYLE}</style></head>
<body><h1>Every workload, on real input</h1>{verdict}<nav>{links}</nav>
<p><small>{html.escape(told)}.
Figures are of this run on this machine; scores are those of the certificates.</small></p>
{sections}
</body></html>
"""


def _section(row: Row, shown: Shown | str, seconds: float) -> str:
    head = f'<h2 id="row{row.place}">{html.escape(row.title)}</h2><p>{html.escape(row.about)}</p>'
    if isinstance(shown, str):
        return f'<section class="failed">{head}<p><b>failed</b>: {html.escape(shown)}</p></section>'
    pictures = "".join(_picture(caption, rgb) for caption, rgb in shown.pictures)
    figures = [
        {"figure": name, "value": value} for name, value in {**shown.figures, "this row": f"{seconds:.1f} s"}.items()
    ]
    files = "".join(f"<br><small>{html.escape(str(path))}</small>" for path in shown.files)
    tables = _table(shown.answer) + _table(figures)
    return f'<section>{head}<div class="pictures">{pictures}</div><div class="tables">{tables}</div>{files}</section>'


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(row.get(name, '')))}</td>" for name in names) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _picture(caption: str, rgb: PixelArray) -> str:
    side = max(rgb.shape[:2])
    scale = min(1.0, WIDEST / side) if side >= LEAST else LEAST / side
    kernel = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    fitted = np.asarray(cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=kernel), np.uint8)
    encoded = cv2.imencode(".jpg", cv2.cvtColor(fitted, cv2.COLOR_RGB2BGR))[1].tobytes()
    source = "data:image/jpeg;base64," + base64.b64encode(encoded).decode()
    text = html.escape(caption)
    return f'<figure><img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>'
