"""A saved view of a sweep's experiment for MLflow's pages, which a link opens.

MLflow keeps what its Share button shares as a tag of the experiment. We share a view of our own: the sweep's trials by their
objective, with the settings that were searched and the scores that matter in columns, and charts that compare them.
"""

from __future__ import annotations

import base64
import json
import uuid
import zlib
from collections.abc import Sequence
from typing import Any, Final

from gbc.report import IMAGE_METRICS
from records.mlflow_store import OUTCOME, runs_query
from search.spec.config import SweepConfig
from search.tracking.step_images import KEY

TAG: Final = "mlflow.sharedViewState."
_SCORES: Final = ("ssim/coverage", "tstr/1nn", "ssim/nearest", "kkt/rho", "classifier/accuracy")
_DATA_FREE: Final = ("free/score", "free/confidence", "free/bn")
"""Shown in the place of scores against images where there are none."""
_CURVES: Final = {
    "KKT losses": ("kkt/rho", "loss/stationarity", "loss/duality", "kkt/alpha", "kkt/mu_active", "margin/q50"),
    "Scores": ("ssim/coverage", "tstr/1nn", "ssim/nearest", "classifier/accuracy", "loss/bn", "loss/total"),
}
_LOG: Final = ("loss/stationarity", "loss/duality", "loss/bn")


def key_of(config: SweepConfig) -> str:
    """Return the key of the sweep's view, which is in the tag's name and in the link."""
    return uuid.uuid5(uuid.NAMESPACE_URL, f"gbc-search sweep {config.name}").hex


def path(config: SweepConfig, experiment: str, *, charts: bool = False) -> str:
    """Return the path that opens the view at a server: its table, or its charts."""
    mode = "CHART" if charts else "TABLE"
    return f"/#/experiments/{experiment}/runs?viewStateShareKey={key_of(config)}&compareRunsMode={mode}"


def state(config: SweepConfig, parent: str) -> str:
    """The view as MLflow stores it; `parent` is the sweep's run, whose trials are unfolded."""
    objective = config.objective
    view = {
        "searchFilter": runs_query(config.name),
        "orderByKey": f"metrics.`{objective.metric}`",
        "orderByAsc": objective.direction == "min",
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": _columns(config),
        "columnOrder": [],
        "columnWidths": {},
        "runsExpanded": {parent: True},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {parent: False},
        "runsHiddenMode": "FIRST_20_RUNS",
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": True,
        "groupBy": None,
        "groupsExpanded": {},
        "autoRefreshEnabled": True,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
        **_charts(config),
    }
    packed = zlib.compress(json.dumps(view, separators=(",", ":")).encode(), 9)
    return f"deflate;{base64.b64encode(packed).decode()}"


def _columns(config: SweepConfig) -> list[str]:
    objectives = [objective.metric for objective in config.objectives]
    metrics = [*objectives, *(name for name in _measured(config, _SCORES) if name not in objectives)]
    return [
        "attributes.`Duration`",
        f"tags.`{OUTCOME}`",
        *(f"metrics.`{name}`" for name in metrics),
        *(f"params.`{name}`" for name in config.space),
    ]


def _measured(config: SweepConfig, metrics: Sequence[str]) -> list[str]:
    """The metrics that trials report; without images, others in place of those that compare with images."""
    kept = [metric for metric in metrics if not (config.trial.data_free and metric in IMAGE_METRICS)]
    return kept if len(kept) == len(metrics) else [*_DATA_FREE, *kept]


def _charts(config: SweepConfig) -> dict[str, Any]:
    """Sections and their cards, in the order in which they are shown."""
    sections: list[dict[str, Any]] = []
    cards: list[dict[str, Any]] = []

    def section(name: str, **size: int) -> str:
        identity = f"section-{len(sections)}"
        state = {"uuid": identity, "name": name, "display": True, "isReordered": True, "deleted": False, "isGenerated": False}
        sections.append(state | size)
        return identity

    def card(kind: str, section_id: str, **settings: Any) -> None:
        common = {
            "uuid": f"card-{len(cards)}",
            "type": kind,
            "metricSectionId": section_id,
            "deleted": False,
            "isGenerated": False,
        }
        cards.append(common | settings)

    overview = section("Settings and objective", columns=1, cardHeight=420)
    card(
        "PARALLEL", overview, displayName="", runsCountToCompare=100, showAllRuns=False,
        selectedParams=list(config.space), selectedMetrics=[config.objective.metric],
    )  # fmt: skip
    for name, metrics in _CURVES.items():
        section_id = section(name)
        for metric in _measured(config, metrics):
            card(
                "LINE", section_id, metricKey=metric, selectedMetricKeys=[metric], runsCountToCompare=20, lineSmoothness=0,
                xAxisKey="step", xAxisScaleType="linear", scaleType="log" if metric in _LOG else "linear",
                selectedXAxisMetricKey="", yAxisKey="metric", useGlobalXaxisKey=True, useGlobalLineSmoothing=True,
            )  # fmt: skip
    card(
        "IMAGE",
        section("Pictures", columns=1, cardHeight=700),
        imageKeys=[KEY],
        step=_common_step(config),
        runsCountToCompare=10,
    )
    return {"compareRunCharts": cards, "compareRunSections": sections}


def _common_step(config: SweepConfig) -> int:
    """The last step that no trial is stopped before, so that all have a picture of it."""
    return config.trial.steps if config.scheduler.name == "none" else config.first_rung
