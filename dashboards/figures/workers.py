"""Figures of how the sweep ran: how far trials came, and which were at work when."""

from __future__ import annotations

from collections.abc import Sequence

from dashboards.cost import busy_spans
from dashboards.figures.panel import Panel, whole_axis
from dashboards.sweep import Sweep
from records.trial import STATES


def survival(sweep: Sweep) -> Panel:
    """Counts of trials at each step where one ended: those that went on, were stopped, failed or stand open."""
    rungs = sweep.settings.rungs
    ends = {trial.last_step for trial in sweep.trials if trial.state != "complete"}
    steps = sorted({*rungs, *ends, sweep.settings.full_steps} - {0})
    labels = [f"{step:,}" for step in steps]
    reached = {step: [trial for trial in sweep.trials if trial.last_step >= step] for step in steps}

    def ended(step: int, state: str) -> int:
        return sum(trial.last_step == step and trial.state == state for trial in reached[step])

    gone = {state: [ended(step, state) for step in steps] for state in ("stopped", "failed", "running")}
    on = [len(reached[step]) - sum(gone[state][index] for state in gone) for index, step in enumerate(steps)]
    names = {"stopped": "stopped here", "failed": "failed here", "running": "open here"}
    bars = [("went on, or complete", "--complete", on)]
    bars += [(names[state], f"--{state}", counts) for state, counts in gone.items() if any(counts)]
    data = [
        {"type": "bar", "name": name, "x": labels, "y": counts, "marker": {"color": colour},
         "hovertemplate": f"step %{{x}}: %{{y}} {name}<extra></extra>"}
        for name, colour, counts in bars
    ]  # fmt: skip
    layout = {
        "barmode": "stack", "xaxis": {"type": "category", "title": {"text": "optimiser step"}},
        "yaxis": whole_axis("trials that came so far", max(map(len, reached.values()), default=0)), "showlegend": True,
    }  # fmt: skip
    rule = {"asha": "ASHA decides", "hyperband": "Hyperband's brackets decide"}.get(
        sweep.settings.scheduler.get("name", ""), ""
    )
    at = f" {rule} at steps {', '.join(f'{rung:,}' for rung in rungs)}." if rungs else ""
    return Panel("Survival", f"Of the trials that came so far, how many went on.{at}", {"data": data, "layout": layout})


def timeline(sweep: Sweep) -> Panel | None:
    """Trials as bars in time, a row a worker; None where no trial has a start."""
    spans = [(trial, busy_spans(trial)) for trial in (*sweep.trials, *sweep.repetitions)]
    spans = [(trial, parts) for trial, parts in spans if parts]
    if not spans:
        return None
    began = min(parts[0][0] for _, parts in spans)
    rows = rows_of([(parts[0][0], parts[-1][1]) for _, parts in spans])
    total = max(parts[-1][1] for _, parts in spans) - began
    unit, seconds = ("hours", 3600) if total > 2 * 3600 else ("minutes", 60)
    data = []
    for state in STATES:
        bars = [
            (trial, row, part)
            for (trial, parts), row in zip(spans, rows, strict=True)
            for part in parts
            if trial.state == state
        ]
        if bars:
            data.append({
                "type": "bar", "orientation": "h", "name": state, "y": [row + 1 for _, row, _ in bars],
                "base": [(begin - began) / seconds for _, _, (begin, _) in bars],
                "x": [(end - begin) / seconds for _, _, (begin, end) in bars],
                "customdata": [[trial.number, trial.last_step] for trial, _, _ in bars], "width": 0.8,
                "marker": {"color": f"--{state}", "line": {"color": "--paper", "width": 1}},
                "hovertemplate": f"trial %{{customdata[0]}}, {state} at step %{{customdata[1]}}<br>"
                f"%{{x:.3g}} {unit}<extra></extra>",
            })  # fmt: skip
    layout = {
        "barmode": "overlay", "xaxis": {"title": {"text": f"{unit} since the start"}},
        "yaxis": {"title": {"text": "worker"}, "dtick": max(1, (max(rows) + 1) // 8), "autorange": "reversed"},
        "showlegend": True,
    }  # fmt: skip
    return Panel(
        "Time line of workers",
        "A bar is a trial. Rows are filled from the top, so they tell how many trials ran at once, not on which machine. "
        "Gaps within a row: nothing ran, or the sweep was interrupted.",
        {"data": data, "layout": layout}, height=min(600, 150 + 24 * (max(rows) + 1)), wide=True,
    )  # fmt: skip


def rows_of(spans: Sequence[tuple[float, float]]) -> list[int]:
    """For each (begin, end) the first row that is free at its begin: as many rows as overlap."""
    free, taken = list[float](), [0] * len(spans)
    for index in sorted(range(len(spans)), key=lambda index: spans[index][0]):
        begin, end = spans[index]
        row = next((row for row, until in enumerate(free) if until <= begin), len(free))
        if row == len(free):
            free.append(end)
        free[row], taken[index] = end, row
    return taken
