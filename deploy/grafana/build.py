"""Panels as data -> Grafana's JSON, by Grafana's own typed builders."""

from __future__ import annotations

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as models_common
from grafana_foundation_sdk.models import dashboard as models

from deploy.grafana.panels import BOARDS, Board, Panel

DATASOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
HEIGHT, WIDTH = 8, 8  # three panels a row


def thresholds(panel: Panel) -> dashboard.ThresholdsConfig:
    """Green, then yellow from `warn` and red from `bad` on; the other way round for values that must not fall."""
    steps = [models.Threshold(value=None, color="green")]
    if panel.warn is not None and panel.bad is not None:
        marks = [(panel.warn, "yellow"), (panel.bad, "red")]
        if panel.falls:
            steps, marks = [models.Threshold(value=None, color="red")], [(panel.bad, "yellow"), (panel.warn, "green")]
        steps += [models.Threshold(value=value, color=colour) for value, colour in marks]
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)


def built(panel: Panel) -> stat.Panel | timeseries.Panel:
    """One panel with its queries, unit and thresholds."""
    made: stat.Panel | timeseries.Panel = stat.Panel() if panel.kind == "stat" else timeseries.Panel()
    made = made.title(panel.title).unit(panel.unit).datasource(DATASOURCE).thresholds(thresholds(panel))
    made = made.height(HEIGHT).span(WIDTH).no_value("none yet")
    if isinstance(made, timeseries.Panel):
        if panel.bad is not None:
            made = made.thresholds_style(
                common.GraphThresholdsStyleConfig().mode(models_common.GraphTresholdsStyleMode.LINE)
            )
        if panel.stacked:
            made = made.fill_opacity(40).stacking(common.StackingConfig().mode(models_common.StackingMode.NORMAL))
    for number, (legend, query) in enumerate(panel.queries):
        target = prometheus.Dataquery().expr(query).legend_format(legend).ref_id(chr(ord("A") + number))
        made = made.with_target(target)
    return made


def document(board: Board) -> str:
    """The dashboard's JSON, as Grafana provisions it."""
    made = dashboard.Dashboard(board.title).uid(f"lockstep-{board.uid}").tags(["lockstep"]).refresh("10s")
    made = made.time("now-1h", "now").editable().tooltip(models.DashboardCursorSync.CROSSHAIR)
    made = made.with_variable(dashboard.DatasourceVariable("datasource").type("prometheus").label("Prometheus"))
    for name, query in board.variables:
        variable = (
            dashboard.QueryVariable(name)
            .query(query)
            .datasource(DATASOURCE)
            .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .current(models.VariableOption(selected=True, text="All", value="$__all"))
        )
        made = made.with_variable(variable.multi(True).include_all(True).all_value(".*"))
    for panel in board.panels:
        made = made.with_panel(built(panel))
    return str(JSONEncoder(sort_keys=True, indent=2).encode(made.build())) + "\n"


def documents() -> dict[str, str]:
    """File name to JSON, one for each dashboard."""
    return {f"{board.uid}.json": document(board) for board in BOARDS}
