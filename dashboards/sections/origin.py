"""What a sweep started from, and how to have it again: the classifiers, the settings, the commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from dashboards import page
from dashboards.page import Html, element, number, paragraph
from dashboards.records import Sweep, Trial


def classifiers(sweep: Sweep) -> Html:
    """What is known of the classifiers: the audit, or how far their training came."""
    parts: list[object] = []
    for audit in sweep.audits:
        parts.append(element("h3", str(audit.get("classifier", "Classifier"))))
        if "verdict" in audit:
            parts.append(paragraph(audit["verdict"]))
        parts.append(_conditions(audit.get("conditions") or []))
        parts.append(_policies(audit.get("lambda") or {}))
    if not sweep.audits:
        parts.append(paragraph("No audit of the classifier is logged; `python -m gbc audit` makes one.", class_="note"))
    for name, regime in sweep.regimes.items():
        if isinstance(regime, dict):
            margins = ", ".join(f"{key} {number(value, 3)}" for key, value in (regime.get("margins") or {}).items())
            pairs = [(key, regime[key]) for key in ("steps", "loss", "accuracy") if key in regime]
            line = ", ".join(f"{key} {number(value) if isinstance(value, float) else value}" for key, value in pairs)
            parts.append(paragraph(element("strong", name), f": {line}{f'; margins {margins}' if margins else ''}"))
    return page.section("classifier", "The classifier", *parts)


def _conditions(conditions: Sequence[Mapping[str, Any]]) -> Html:
    if not conditions:
        return Html("")
    sets = list(conditions[0].get("values", {}))

    def cells(condition: Mapping[str, Any]) -> list[object]:
        cosines = condition.get("cosines") or {}
        shown = [
            f"{number(condition['values'].get(name), 3)}" + (f" ({cosines[name]:.2f})" if name in cosines else "")
            for name in sets
        ]
        return [condition.get("name", ""), *shown, "yes" if condition.get("separates") else "no"]

    caption = (
        "Relative residual of each condition (cosine of its two sides); of use if it tells the training images from others"
    )
    return page.table(["condition", *sets, "of use"], [cells(one) for one in conditions], caption=caption)


def _policies(found: Mapping[str, Any]) -> Html:
    rows = [
        [
            one.get("policy", ""),
            one.get("mode", ""),
            one.get("refused") or ", ".join(one.get("kept") or ()) or "–",
            one.get("same_as") or "",
        ]
        for one in found.get("policies") or []
    ]
    return page.table(["policy of Λ", "BatchNorm", "tensors on the left-hand side", "same as"], rows) if rows else Html("")


def reproduce(sweep: Sweep) -> Html:
    """The resolved settings, the versions, and the commands that give the same."""
    record, tags = sweep.record, sweep.store.tags
    commit = tags.get("mlflow.source.git.commit")
    lines = [f"git checkout {commit}"] if commit else []
    lines += [
        f"python search/run.py --config sweep.yaml --name {record.name}-again   # the file below",
        f"python -m gbc train --config trial-{sweep.best.number:04d}.yaml --out best   # the best trial alone, the file below",
        f"python search/export.py --sweep {record.name} --out exports/{record.name}   # its generator",
    ]
    versions = [[name.removeprefix("version."), value] for name, value in sorted(tags.items()) if name.startswith("version.")]
    versions += [
        [name, tags[name]] for name in ("data.digest", "classifier.digest", "mlflow.source.git.commit") if name in tags
    ]
    best = yaml.safe_dump(_settings_of(sweep, sweep.best), sort_keys=False)
    return page.section(
        "reproduce", "Reproduce",
        element("pre", element("code", "\n".join(lines))),
        paragraph(
            page.download("sweep.yaml", record.text, "Save sweep.yaml"), " · ",
            page.download(f"trial-{sweep.best.number:04d}.yaml", best, f"Save trial-{sweep.best.number:04d}.yaml"),
        ),
        paragraph(
            "Numbers are the same to the last bit with one trial at a time, on the same machine and versions; otherwise they "
            "are close.",
            class_="caption",
        ),
        page.table(["what", "version"], versions) if versions else Html(""),
        page.details("The resolved settings", element("pre", element("code", record.text))),
    )  # fmt: skip


def _settings_of(sweep: Sweep, trial: Trial) -> dict[str, Any]:
    """What `python -m gbc train --config` takes: fixed settings, what was sampled, the trial's own seed."""
    seed = trial.logged.settings.get("seed", "")
    return {**sweep.record.trial, **trial.params, **({"seed": int(seed)} if seed.isdigit() else {})}
