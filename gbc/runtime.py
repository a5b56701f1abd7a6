"""Where a run computes and where its random numbers come from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gbc.errors import BadInput

if TYPE_CHECKING:
    import torch


def pick_device(name: str) -> torch.device:
    """`auto` takes the first GPU if there is one.

    Raises:
        BadInput: a GPU is asked for that is not there.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BadInput(f"device is {name!r}, but this machine has {torch.cuda.device_count()} GPUs; use 'auto' or 'cpu'")
    return device


def derive(seed: int, stream: int) -> int:
    """A seed for stream number `stream` of a run; different for every pair."""
    import numpy as np

    return int(np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)[0] >> 1)
