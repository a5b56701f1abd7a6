"""Audits of a sweep's classifiers: the optimality conditions that they satisfy, measured once for each classifier."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from gbc.checkpoint import write_atomic
from gbc.config import TrialConfig
from gbc.data import datasets
from gbc.studies import audit
from gbc.training.tasks import TrialInputs

_AUDITS: Final = Path("mlruns") / "audits"
_AUDITED: Final = 2  # classifiers of a sweep; each takes about half a minute, once


def audits_of(settings: TrialConfig, inputs: TrialInputs) -> list[dict[str, Any]]:
    """The audits of a trial's classifiers, of the first ones at least, as plain data with the name of each.

    Raises:
        BadInput, CorruptFile: as `datasets.load`.
    """
    every = list(zip(settings.classifiers(), inputs.classifiers, inputs.regimes, inputs.folders, strict=True))
    audits = []
    for spec, classifier, regime, folder in every[:_AUDITED]:
        path = _AUDITS / f"{folder.name}.json"
        if not path.exists():
            data = None if spec.dataset.data_free else datasets.load(spec.dataset)
            seen = audit.audit_classifier(spec.classifier, classifier, regime, data)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, json.dumps({"classifier": folder.name, **seen.to_json()}).encode())
        audits.append(json.loads(path.read_text()))
    return audits
