"""Dashboards as code: `python -m deploy.grafana` writes deploy/grafana/json, which Grafana provisions."""
