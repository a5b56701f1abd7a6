"""Whether the three records of a sweep agree, and how they are brought to: study, MLflow runs, files of trials.

`audit` looks at all of them; `check` is `python search/run.py --check NAME`, and `repair` mends what can be mended.
"""

from __future__ import annotations

from search.consistency.collect import audit
from search.consistency.finding import Finding, SweepAudit

__all__ = ["Finding", "SweepAudit", "audit"]
