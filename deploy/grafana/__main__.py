"""`python -m deploy.grafana`: write the dashboards' JSON."""

from __future__ import annotations

from pathlib import Path

from deploy.grafana.build import documents

if __name__ == "__main__":
    folder = Path(__file__).with_name("json")
    for name, text in documents().items():
        (folder / name).write_text(text, "utf-8")
