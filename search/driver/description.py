"""A sweep in Markdown, for those who open its run in MLflow: the question, the space, the best, the controls, the commands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from records.format import duration
from search.policy.verdict import sentence
from search.spec.config import SweepConfig
from search.spec.space import Dimension

if TYPE_CHECKING:
    from search.driver.summary import Summary
    from search.tracking.tracker import Tracker


def question(config: SweepConfig) -> str:
    """The question of a sweep in Markdown: the space that is searched, and for what."""
    wanted = " and ".join(f"`{objective.metric}` ({objective.direction})" for objective in config.objectives)
    specs = [spec for trial in config.search_space.trials() for spec in trial.classifiers()]
    classifiers = ", ".join(dict.fromkeys(spec.classifier.label for spec in specs))
    rows = "\n".join(f"| `{key}` | {_range(dimension)} |" for key, dimension in config.space.items())
    source = "without any image" if config.trial.data_free else f"of **{config.trial.dataset.name}**"
    if config.objective.require:
        wanted += f" with {config.objective.required}"
    return (
        f"Which settings make a generator, born from nothing but a classifier ({classifiers}) "
        f"{source}, reach the best {wanted} within {config.trial.steps} steps?\n\n"
        f"Sampler `{config.sampler}`, scheduler `{config.scheduler.name}`, seed {config.seed}.\n\n"
        f"| searched | from |\n|---|---|\n{rows}\n" + "".join(f"\nEvery trial keeps `{text}`.\n" for text in config.constraints)
    )


def description(config: SweepConfig, summary: Summary, tracker: Tracker, evaluation: Mapping[str, Any] | None) -> str:
    """The question and what came of it; `evaluation` is `gbc.export.scorecard`'s, with the number of the best trial."""
    parts = [_outcome(config, summary, evaluation)]
    if summary.best_trial is not None:
        parts += _best(config, summary, tracker)
    if evaluation is not None:
        parts += _controls(evaluation)
    if summary.front:
        numbers = ", ".join(f"trial-{point['trial']:04d}" for point in summary.front)
        parts.append(f"Pareto front: {numbers}.\n")
    parts += [
        "## The question\n",
        question(config),
        "```sh\n"
        f"python search/run.py --config sweep.yaml --name {config.name}   # the file is among this run's artifacts\n"
        f"python dashboards/report.py --sweep {config.name}\n"
        f"python search/export.py --sweep {config.name} --out exports/{config.name}\n"
        "```\n",
    ]
    return "\n".join(parts)


def _outcome(config: SweepConfig, summary: Summary, evaluation: Mapping[str, Any] | None) -> str:
    counts = f"{summary.complete} complete, {summary.stopped} stopped early, {summary.failed} failed"
    spent = f"{counts} in {duration(summary.seconds)}.\n"
    if summary.best_trial is None or summary.best_value is None:
        return spent
    scores: Mapping[str, float] = (
        evaluation["scores"]["generator"] if evaluation else {config.objective.metric: summary.best_value}
    )
    shown = ", ".join(f"{metric} {value:.3f}" for metric, value in scores.items())
    return f"**trial-{summary.best_trial:04d} is the best: {shown}.** {spent}"


def _best(config: SweepConfig, summary: Summary, tracker: Tracker) -> list[str]:
    assert summary.best_trial is not None
    name, run = f"trial-{summary.best_trial:04d}", tracker.run(summary.best_trial)
    settings = ", ".join(
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in summary.best_params.items()
    )
    link = f"[{name}](#/experiments/{tracker.experiment}/runs/{run})" if run else name
    caption = "generated" if config.trial.data_free else "odd rows: generated; even rows: the nearest training images"
    picture = f"get-artifact?path=samples.png&run_uuid={tracker.parent}"
    return [
        f"## Best: {link}\n",
        f"{settings}\n",
        *(f"{sentence(line)}\n" for line in summary.verdict),
        f"![{caption}]({picture})\n",
    ]


def _controls(evaluation: Mapping[str, Any]) -> list[str]:
    scores: Mapping[str, Mapping[str, float]] = evaluation["scores"]
    metrics = list(next(iter(scores.values())))
    rows = [
        f"| {'**this generator**' if name == 'generator' else name} | "
        + " | ".join(f"{values[metric]:.3f}" for metric in metrics)
        + " |"
        for name, values in scores.items()
    ]
    head = f"| images | {' | '.join(f'`{metric}`' for metric in metrics)} |\n|---|{'---|' * len(metrics)}"
    note = f"{evaluation['eval_per_class']} images a class; what worthless images get, and last what real ones get.\n"
    return ["\n".join([head, *rows]) + "\n", note]


def _range(dimension: Dimension) -> str:
    condition = f" {dimension.where}" if dimension.when else ""
    if dimension.log10 is not None:
        return "10^[{:g}, {:g}]".format(*dimension.log10) + condition
    if dimension.uniform is not None:
        return "[{:g}, {:g}]".format(*dimension.uniform) + condition
    if dimension.int is not None:
        return "{} to {}".format(*dimension.int) + (", log" if dimension.log else "") + condition
    return ", ".join(map(str, dimension.choice or ())) + condition
