"""A registered generator as MLflow serves it. MLflow copies this file into the model, so it imports nothing of its package.

Input: a table with the columns `label` and `seed`. Output: images [K, channels, height, width] in [0, 1], float32. Row i is a
function of its label and seed alone: what `gbc.export.load(folder).sample([label], seed)` draws.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import mlflow
import numpy as np
import pandas as pd
import torch
from mlflow.pyfunc import PythonModel

# Rows are drawn so many at a time, the last ones filled up: the last bits of a row would depend on how many there are.
_ROWS: Final = 64


class ServedGenerator(PythonModel):  # type: ignore[misc]
    """Draws images with the exported program in the artifact `generator`."""

    def load_context(self, context: Any) -> None:
        """Read the program and what it knows."""
        folder = Path(context.artifacts["generator"])
        header = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.noise_dim, self.classes = header["settings"]["noise_dim"], header["classes"]
        # Of several classifiers (Algorithm 2) those that know the label, all alike.
        self.knows = torch.zeros(len(self.classes), len(header["labels_of_task"]))
        for task, labels in enumerate(header["labels_of_task"]):
            self.knows[labels, task] = 1
        self.program = torch.export.load(folder / "generator.pt2").module()

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> Any:
        """Images of the rows of `model_input`; a ValueError names a label that is not known."""
        labels = [int(label) for label in model_input["label"]]
        if unknown := [label for label in labels if not 0 <= label < len(self.classes)]:
            known = ", ".join(map(str, self.classes))
            raise ValueError(f"label {unknown[0]} is unknown to this generator; it has 0 to {len(self.classes) - 1}: {known}")
        rows = [self._latents(label, int(seed)) for label, seed in zip(labels, model_input["seed"], strict=True)]
        images = [self._draw(rows[start : start + _ROWS]) for start in range(0, len(rows), _ROWS)]
        return np.concatenate(images or [self._draw(rows)])

    def _latents(self, label: int, seed: int) -> tuple[torch.Tensor, ...]:
        rng = torch.Generator().manual_seed(seed)
        noise = torch.randn(1, self.noise_dim, generator=rng)
        if self.knows.shape[1] == 1:
            return noise, torch.tensor([label])
        return noise, torch.tensor([label]), torch.multinomial(self.knows[[label]], 1, generator=rng).squeeze(1)

    def _draw(self, rows: list[tuple[torch.Tensor, ...]]) -> Any:
        filled = rows + [self._latents(0, 0)] * (_ROWS - len(rows))
        with torch.no_grad():
            return self.program(*(torch.cat(parts) for parts in zip(*filled, strict=True)))[: len(rows)].numpy()


mlflow.models.set_model(ServedGenerator())
