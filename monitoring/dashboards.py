"""The Grafana dashboards: operator, trainings, datasets, served models, drift."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from fovea_api import profile
from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DataSourceRef, VariableRefresh
from pydantic import JsonValue

WIDTH = 24
"""Columns of Grafana's grid."""
HEIGHT = 8
_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")


@dataclass(frozen=True, slots=True)
class Query:
    """PromQL, and what its series are called."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One picture."""

    title: str
    description: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: Literal["line", "number"] = "line"
    width: int = 8
    signed: bool = False
    """Whether there are values below zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """A page of panels. `variables`: labels to choose by, each with the series that has its values."""

    name: str
    title: str
    variables: tuple[tuple[str, str], ...] = ()
    panels: tuple[Panel, ...]


_OBJECTS = 'namespace=~"$namespace", name=~"$name"'
_SERVED = 'namespace=~"$namespace", deployment=~"$deployment"'


def _quantile(share: float, series: str, labels: str, by: str = "") -> str:
    chosen = f"{{{labels}}}" if labels else ""
    return f"histogram_quantile({share}, sum by ({by}le) (rate({series}_bucket{chosen}[$__rate_interval])))"


def _mean(series: str) -> str:
    of = f"{series}_%s{{{_SERVED}}}[$__rate_interval]"
    return f"sum by (run) (rate({of % 'sum'})) / sum by (run) (rate({of % 'count'}))"


def _by(label: str, series: str, chosen: str = _SERVED) -> str:
    return f"sum by ({label}) (rate({series}{{{chosen}}}[$__rate_interval]))"


OPERATOR = Dashboard(
    name="operator",
    title="Fovea: operator",
    panels=(
        Panel(
            title="Working replicas",
            description="Replicas that hold the Lease; anything but 1 is wrong.",
            queries=(Query("sum(fovea_leader)", "working"),),
            kind="number",
            width=4,
        ),
        Panel(
            title="Objects",
            description="Objects in the operator's cache.",
            queries=(Query("sum by (kind) (fovea_cached_objects)", "{{kind}}"),),
            width=10,
        ),
        Panel(
            title="Not ready, and stalled",
            description="Objects whose declared state does not hold; the stalled ones wait for a person.",
            queries=(
                Query(
                    "count by (kind) (fovea_object_ready) - sum by (kind) (fovea_object_ready)", "{{kind}} not ready"
                ),
                Query("sum by (kind, reason) (fovea_object_stalled)", "{{kind}} {{reason}}"),
            ),
            width=10,
        ),
        Panel(
            title="Queue depth",
            description="Objects that are due and wait for a worker.",
            queries=(Query("sum by (kind) (fovea_queue_depth)", "{{kind}}"),),
        ),
        Panel(
            title="Wait in the queue (p99)",
            description="Seconds from an object being due to its reconcile.",
            queries=(Query(_quantile(0.99, "fovea_queue_wait_seconds", "", "kind, "), "{{kind}}"),),
            unit="s",
        ),
        Panel(
            title="Reconcile (p99)",
            description="Seconds of one reconcile.",
            queries=(Query(_quantile(0.99, "fovea_reconcile_seconds", "", "kind, "), "{{kind}}"),),
            unit="s",
        ),
        Panel(
            title="Failed reconciles",
            description="They are tried again with a growing pause.",
            queries=(
                Query(
                    "sum by (kind, reason) (rate(fovea_reconcile_errors_total[$__rate_interval]))",
                    "{{kind}} {{reason}}",
                ),
            ),
            unit="ops",
        ),
        Panel(
            title="API requests",
            description="Requests to the API server by answer; 0: none came.",
            queries=(
                Query("sum by (verb, code) (rate(fovea_api_requests_total[$__rate_interval]))", "{{verb}} {{code}}"),
            ),
            unit="reqps",
        ),
        Panel(
            title="Watch events",
            description="Changes that the API server reports.",
            queries=(Query("sum by (kind) (rate(fovea_watch_events_total[$__rate_interval]))", "{{kind}}"),),
            unit="ops",
        ),
    ),
)
TRAINING = Dashboard(
    name="training",
    title="Fovea: training",
    variables=(("namespace", "fovea_run_phase"), ("name", 'fovea_run_phase{namespace=~"$namespace"}')),
    panels=(
        Panel(
            title="Runs",
            description="Runs that are kept, by type and phase.",
            queries=(Query('sum by (type, phase) (fovea_run_phase{namespace=~"$namespace"})', "{{type}} {{phase}}"),),
        ),
        Panel(
            title="Progress",
            description="Share of the work that is done, of runs that are at work.",
            queries=(Query(f"fovea_run_progress_ratio{{{_OBJECTS}}}", "{{namespace}}/{{name}}"),),
            unit="percentunit",
        ),
        Panel(
            title="Attempts ended",
            description="In the last hour, in the whole cluster.",
            queries=(
                Query("sum by (type, outcome) (increase(fovea_run_attempts_ended_total[1h]))", "{{type}} {{outcome}}"),
            ),
        ),
        Panel(
            title="Loss",
            description="On the train and validation split, of runs that are at work.",
            queries=(Query(f'fovea_run_metric{{{_OBJECTS}, metric=~".*loss"}}', "{{name}} {{metric}}"),),
        ),
        Panel(
            title="Metrics",
            description="Measured after each epoch, of runs that are at work.",
            queries=(Query(f'fovea_run_metric{{{_OBJECTS}, metric!~"train/.*|.*loss"}}', "{{name}} {{metric}}"),),
        ),
        Panel(
            title="Images per second",
            description="Of runs that are at work.",
            queries=(Query(f"fovea_run_images_per_second{{{_OBJECTS}}}", "{{namespace}}/{{name}}"),),
        ),
        Panel(
            title="Success criteria",
            description="Measured on the exported model of each TrainingJob, and what is required.",
            queries=(
                Query(
                    'fovea_trainingjob_criterion_measured{namespace=~"$namespace"}', "{{namespace}}/{{name}} {{metric}}"
                ),
                Query(
                    'fovea_trainingjob_criterion_min{namespace=~"$namespace"}',
                    "{{namespace}}/{{name}} {{metric}} at least",
                ),
                Query(
                    'fovea_trainingjob_criterion_max{namespace=~"$namespace"}',
                    "{{namespace}}/{{name}} {{metric}} at most",
                ),
            ),
        ),
        Panel(
            title="Eligible",
            description="1: the newest model meets all criteria and may be served.",
            queries=(Query('fovea_trainingjob_eligible{namespace=~"$namespace"}', "{{namespace}}/{{name}}"),),
        ),
        Panel(
            title="Compute",
            description="Core and GPU hours of the runs, by namespace.",
            queries=(
                Query(
                    "sum by (namespace, resource) "
                    '(fovea_object_usage_hours{namespace=~"$namespace", kind=~"TrainingJob|TuningSweep"})',
                    "{{namespace}} {{resource}}",
                ),
            ),
            unit="h",
        ),
    ),
)
DATASET = Dashboard(
    name="dataset",
    title="Fovea: datasets",
    variables=(("namespace", "fovea_dataset_images"), ("name", 'fovea_dataset_images{namespace=~"$namespace"}')),
    panels=(
        Panel(
            title="Images",
            description="Of the newest version, by split.",
            queries=(Query(f"fovea_dataset_images{{{_OBJECTS}}}", "{{name}} {{split}}"),),
        ),
        Panel(
            title="Annotations",
            description="Of the newest version, by class.",
            queries=(Query(f"fovea_dataset_annotations{{{_OBJECTS}}}", "{{name}} {{class}}"),),
        ),
        Panel(
            title="Rarest class",
            description="Its share of the annotations, and what an even share would be.",
            queries=(
                Query(
                    f"min by (namespace, name) (fovea_dataset_annotations{{{_OBJECTS}}}) "
                    f"/ sum by (namespace, name) (fovea_dataset_annotations{{{_OBJECTS}}})",
                    "{{name}}",
                ),
                Query(
                    f"1 / count by (namespace, name) (fovea_dataset_annotations{{{_OBJECTS}}})", "{{name}} even share"
                ),
            ),
            unit="percentunit",
        ),
        Panel(
            title="Checks",
            description="What the checks of the newest version counted.",
            queries=(Query(f"fovea_dataset_quality{{{_OBJECTS}}}", "{{name}} {{check}}"),),
            width=12,
        ),
        Panel(
            title="Findings",
            description="What is not right in the newest version; its report says where.",
            queries=(Query(f"fovea_dataset_findings{{{_OBJECTS}}}", "{{name}} {{finding}} ({{severity}})"),),
            width=12,
        ),
    ),
)
SERVING = Dashboard(
    name="serving",
    title="Fovea: served models",
    variables=(
        ("namespace", "fovea_serving_images_at_work"),
        ("deployment", 'fovea_serving_images_at_work{namespace=~"$namespace"}'),
    ),
    panels=(
        Panel(
            title="Requests",
            description="By the status of the answer.",
            queries=(Query(_by("code", "fovea_serving_requests_total"), "{{code}}"),),
            unit="reqps",
        ),
        Panel(
            title="Latency",
            description="From the whole request to its answer, and the promised 95th percentile.",
            queries=(
                *(
                    Query(_quantile(share, "fovea_serving_request_seconds", _SERVED), f"p{share * 100:.0f}")
                    for share in (0.5, 0.95, 0.99)
                ),
                Query(f'fovea_serving_objective{{{_SERVED}, metric="latencyP95Milliseconds"}} / 1000', "p95 promised"),
            ),
            unit="s",
        ),
        Panel(
            title="Failed, and turned away",
            description="Share of requests that the service failed (5xx) or shed (429), and the promised share.",
            queries=(
                *(
                    Query(
                        f'sum(rate(fovea_serving_requests_total{{{_SERVED}, code=~"{code}"}}[$__rate_interval])) '
                        f"/ sum(rate(fovea_serving_requests_total{{{_SERVED}}}[$__rate_interval]))",
                        words,
                    )
                    for code, words in (("5..", "failed"), ("429", "turned away"))
                ),
                Query(f'fovea_serving_objective{{{_SERVED}, metric="errorRate"}}', "failed, promised"),
            ),
            unit="percentunit",
        ),
        Panel(
            title="Errors",
            description="By kind.",
            queries=(Query(_by("reason", "fovea_serving_errors_total"), "{{reason}}"),),
            unit="reqps",
        ),
        Panel(
            title="Images at work",
            description="Taken in and not answered yet.",
            queries=(
                Query(f"sum by (deployment) (fovea_serving_images_at_work{{{_SERVED}}})", "{{deployment}}"),
                Query(
                    f"max by (deployment) (fovea_serving_expected_wait_seconds{{{_SERVED}}})",
                    "{{deployment}}: expected wait in seconds",
                ),
            ),
        ),
        Panel(
            title="Batch size",
            description="Images that went through the network together, on average; Triton does not say.",
            queries=(Query(_mean("fovea_serving_batch_size"), "{{run}}"),),
        ),
        Panel(
            title="Versions",
            description="Share of the requests that each version has, in per cent.",
            queries=(
                Query(
                    f"max by (deployment, run, role) (fovea_serving_version_weight{{{_SERVED}}})",
                    "{{deployment}} {{run}} {{role}}",
                ),
            ),
        ),
        Panel(
            title="Candidate: requests tested",
            description="By which a candidate is tested, with stable's beside them.",
            queries=(
                Query(_by("run, role", "fovea_serving_rollout_requests_total"), "{{run}} {{role}}"),
                Query(_by("run, role", "fovea_serving_rollout_failures_total"), "{{run}} {{role}} failed"),
            ),
            unit="reqps",
        ),
        Panel(
            title="Candidate: compared answers",
            description="Requests that candidate and stable answered both.",
            queries=(Query(_by("run, answers", "fovea_serving_rollout_compared_total"), "{{run}} {{answers}}"),),
            unit="reqps",
        ),
        Panel(
            title="Golden image",
            description="1: a version gives the known answer, at every gateway.",
            queries=(
                Query(
                    f"min by (deployment, run) (fovea_serving_version_ready{{{_SERVED}}})",
                    "{{deployment}} {{run}}",
                ),
            ),
        ),
        Panel(
            title="Replicas",
            description="Ready replicas, as the operator sees them.",
            queries=(
                Query(
                    'fovea_modeldeployment_replicas{namespace=~"$namespace", name=~"$deployment"}',
                    "{{namespace}}/{{name}}",
                ),
            ),
        ),
        Panel(
            title="Confidence",
            description="Best score of an image: median, and what a tenth of the images stay below.",
            queries=tuple(
                Query(_quantile(share, "fovea_serving_confidence", _SERVED, "run, "), f"{{{{run}}}} {words}")
                for share, words in ((0.5, "median"), (0.1, "lowest tenth"))
            ),
            unit="percentunit",
        ),
        Panel(
            title="Classes",
            description="Predicted objects, or images, by class.",
            queries=(Query(_by("class", "fovea_serving_predictions_total"), "{{class}}"),),
            unit="ops",
        ),
        Panel(
            title="Image formats",
            description="Images by their file's format.",
            queries=(Query(_by("format", "fovea_serving_images_total"), "{{format}}"),),
            unit="ops",
        ),
        Panel(
            title="Megapixels",
            description="Size of the images: median and 95th percentile.",
            queries=tuple(
                Query(_quantile(share, "fovea_serving_image_megapixels", _SERVED), f"p{share * 100:.0f}")
                for share in (0.5, 0.95)
            ),
        ),
        Panel(
            title="Kilobytes",
            description="Size of the files: median and 95th percentile.",
            queries=tuple(
                Query(_quantile(share, "fovea_serving_image_kilobytes", _SERVED), f"p{share * 100:.0f}")
                for share in (0.5, 0.95)
            ),
        ),
        Panel(
            title="Aspect ratio",
            description="Width by height of the images: median.",
            queries=(Query(_quantile(0.5, "fovea_serving_image_aspect_ratio", _SERVED), "median"),),
        ),
    ),
)


def _feature(feature: profile.Feature) -> Panel:
    """Median and spread of a feature, and the median of the reference, which is a histogram in the same bins."""
    reference = f'max by (run, le) ({profile.REFERENCE}{{{_SERVED}, feature="{feature.name}"}})'
    return Panel(
        title=feature.name,
        description=feature.description,
        queries=(
            *(
                Query(_quantile(share, feature.metric, _SERVED, "run, "), f"{{{{run}}}} {words}")
                for share, words in ((0.5, "median"), (0.1, "lowest tenth"), (0.9, "highest tenth"))
            ),
            Query(f"histogram_quantile(0.5, {reference})", "{{run}} median of the reference"),
        ),
        signed=feature.edges[0] < 0,
    )


def _class_shares(counts: str) -> str:
    """Shares of each class, of counts by deployment, run and class."""
    return f"({counts}) / ignoring (class) group_left () sum by (deployment, run) ({counts})"


_DEPLOYED = 'namespace=~"$namespace", name=~"$deployment"'
DRIFT = Dashboard(
    name="drift",
    title="Fovea: drift",
    variables=(
        ("namespace", profile.REFERENCE_ITEMS),
        ("deployment", f'{profile.REFERENCE_ITEMS}{{namespace=~"$namespace"}}'),
    ),
    panels=(
        Panel(
            title="Drift",
            description="1: detected, with evidence that keeps the budget of false alarms; absent: not known.",
            queries=(Query(f"fovea_modeldeployment_drift_detected{{{_DEPLOYED}}}", "{{namespace}}/{{name}}"),),
            kind="number",
            width=4,
        ),
        Panel(
            title="Effects",
            description="Largest of each detector in the last window: Cliff's delta (small from 0.147, large 0.474), "
            "of classes Cohen's h (0.2 and 0.8).",
            queries=(Query(f"fovea_modeldeployment_drift_effect{{{_DEPLOYED}}}", "{{name}} {{detector}}"),),
            width=10,
        ),
        Panel(
            title="Accuracy",
            description="Share of labelled answers of the last day that were right, and the share of the reference.",
            queries=(
                Query(
                    f'sum by (run) (increase({profile.LABELLED}{{{_SERVED}, outcome="right"}}[1d])) '
                    f"/ sum by (run) (increase({profile.LABELLED}{{{_SERVED}}}[1d]))",
                    "{{run}} by labels",
                ),
                Query(f"max by (run) ({profile.REFERENCE_ACCURACY}{{{_SERVED}}})", "{{run}} of the reference"),
            ),
            unit="percentunit",
            width=10,
        ),
        *(_feature(feature) for feature in profile.FEATURES.values()),
        Panel(
            title="Predicted classes",
            description="Share of the images by predicted class, and the share in the reference.",
            queries=(
                Query(_class_shares(_by("deployment, run, class", profile.CLASSES)), "{{run}} {{class}}"),
                Query(
                    _class_shares(f"max by (deployment, run, class) ({profile.REFERENCE_CLASSES}{{{_SERVED}}})"),
                    "{{run}} {{class}} in the reference",
                ),
            ),
            unit="percentunit",
            width=12,
        ),
        Panel(
            title="Measured images",
            description="Images whose pixels were measured, and images whose answers were counted.",
            queries=(
                Query(_by("run", "fovea_serving_image_brightness_count"), "{{run}} pixels"),
                Query(_by("run", "fovea_serving_confidence_count"), "{{run}} answers"),
            ),
            unit="ops",
            width=12,
        ),
        Panel(
            title="Captures",
            description="Requests that were kept, by the reason for it, and those that were lost.",
            queries=(
                Query(_by("reason", "fovea_serving_captures_total"), "{{reason}}"),
                Query(_by("reason", "fovea_serving_captures_lost_total"), "lost: {{reason}}"),
            ),
            unit="ops",
            width=12,
        ),
        Panel(
            title="Labels",
            description="Captures in the store, with a label and without.",
            queries=(
                Query(
                    f"max by (deployment, label) ({profile.STORED_CAPTURES}{{{_SERVED}}})", "{{deployment}} {{label}}"
                ),
            ),
            width=12,
        ),
    ),
)
DASHBOARDS = (OPERATOR, TRAINING, DATASET, SERVING, DRIFT)


def to_json(page: Dashboard) -> str:
    """The dashboard as Grafana (10.1 or later) imports it."""
    builder = (
        dashboard.Dashboard(page.title)
        .uid(f"fovea-{page.name}")
        .tags(["fovea"])
        .refresh("30s")
        .time("now-6h", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    for label, series in page.variables:
        builder = builder.with_variable(
            dashboard.QueryVariable(label)
            .label(label)
            .query(f"label_values({series}, {label})")
            .datasource(_SOURCE)
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(True)
            .include_all(True)
            .all_value(".*")
        )
    for panel in page.panels:
        builder = builder.with_panel(_panel(panel))
    built = json.loads(json.dumps(builder.build(), cls=JSONEncoder))
    return json.dumps(_without_nulls(built), indent=1, sort_keys=True) + "\n"


def _without_nulls(value: JsonValue) -> JsonValue:
    """What the library leaves open is for Grafana to fill in."""
    match value:
        case dict():
            return {name: _without_nulls(part) for name, part in value.items() if part is not None}
        case list():
            return [_without_nulls(part) for part in value]
        case _:
            return value


def _panel(panel: Panel) -> timeseries.Panel | stat.Panel:
    if panel.kind == "number":
        built: timeseries.Panel | stat.Panel = stat.Panel()
    else:
        legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
        built = timeseries.Panel().fill_opacity(10).legend(legend.show_legend(True))
    built = built.title(panel.title).description(panel.description).unit(panel.unit).datasource(_SOURCE)
    if not panel.signed:
        built = built.min(0)
    for index, query in enumerate(panel.queries):
        target = prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(chr(ord("A") + index))
        built = built.with_target(target.datasource(_SOURCE))
    return built.height(HEIGHT).span(panel.width)
