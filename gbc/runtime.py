"""Where a run computes and where its random numbers come from."""

from __future__ import annotations

import contextlib
import ctypes
from typing import TYPE_CHECKING, Final

from gbc.errors import BadInput

if TYPE_CHECKING:
    import torch

# <malloc.h> of glibc.
_MMAP_MAX: Final = -4
_TRIM_THRESHOLD: Final = -1


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


def keep_memory() -> None:
    """What this process frees stays its own, for the next step to use.

    glibc gives large blocks back to the system, which clears their pages before it hands them out again: a tenth of a step's
    time at batch 256. The most memory that a trial takes stays the same. With another C library nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_MAX, 0)
        library.mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)
