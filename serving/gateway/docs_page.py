"""/docs: the OpenAPI document as one plain page. No script, nothing fetched from elsewhere, works offline."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1f24;background:#fff}
h2{font-size:1rem;margin:2rem 0 .3rem;padding:.4rem .6rem;background:#eef2f6;border-left:4px solid #2a6fb0}
code,pre{font:13px/1.45 ui-monospace,monospace}pre{background:#f6f8fa;padding:.6rem;overflow:auto}
table{border-collapse:collapse}td,th{border:1px solid #d0d7de;padding:.2rem .5rem;text-align:left;vertical-align:top}
@media(prefers-color-scheme:dark){body{color:#e6edf3;background:#0d1117}h2,pre{background:#161b22}td,th{border-color:#30363d}}
"""


def render(document: Mapping[str, Any]) -> str:
    """The page of an OpenAPI document."""
    info = document["info"]
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(info['title'])}</title>",
        f"<style>{_STYLE}</style><h1>{escape(info['title'])} {escape(info['version'])}</h1>",
        f"<p>{escape(info['description'])}</p><p>For programs: <a href=/openapi.json>openapi.json</a></p>",
    ]
    for path, methods in document["paths"].items():
        parts += [_operation(path, method, operation) for method, operation in methods.items()]
    return "\n".join([*parts, "</html>"])


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> str:
    parts = [f"<h2 id={escape(operation['operationId'])}>{method.upper()} {escape(path)}</h2>"]
    parts.append(f"<p>{escape(operation['summary'])}</p>")
    if parameters := operation.get("parameters"):
        rows = "".join(_parameter(p) for p in parameters)
        parts.append(f"<table><tr><th>parameter<th>in<th>type<th>meaning</tr>{rows}</table>")
    if body := operation.get("requestBody"):
        parts.append(f"<p>Body: {', '.join(f'<code>{escape(kind)}</code>' for kind in body['content'])}</p>")
    answers = ", ".join(f"{status} {escape(r['description'])}" for status, r in operation["responses"].items())
    parts.append(f"<p>Answers: {answers}</p>")
    if example := operation.get("x-example"):
        parts.append(f"<pre>{escape(example)}</pre>")
    return "\n".join(parts)


def _parameter(parameter: Mapping[str, Any]) -> str:
    schema = parameter["schema"]
    bounds = [f"{word} {schema[word]}" for word in ("minimum", "maximum", "default", "enum") if word in schema]
    kind = ", ".join([str(schema.get("type", "")), *bounds])
    cells = (parameter["name"], parameter["in"], kind, parameter.get("description", ""))
    return "<tr>" + "".join(f"<td>{escape(str(cell))}" for cell in cells) + "</tr>"
