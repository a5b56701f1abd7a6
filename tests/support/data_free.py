"""A classifier with weights and a card, of whose images there are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.conftest import TINY, TINY_CLASSIFIER


def without_images(cache: Path, **changes: Any) -> dict[str, Any]:
    """The settings `TINY` for data set `none`, with the weights of the classifier that `cache` holds."""
    weights = next(cache.glob("fashion_mnist-mlp_bn-*/model.safetensors"))  # its card lies beside it
    return {**TINY, "dataset": "none", "classifier": {**TINY_CLASSIFIER, "weights": str(weights)}, **changes}
