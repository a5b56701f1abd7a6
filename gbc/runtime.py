"""Device, memory and random seeds of a run."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
from typing import TYPE_CHECKING, Final

from gbc.errors import BadInput

if TYPE_CHECKING:
    import torch

# <malloc.h> of glibc.
_MMAP_MAX: Final = -4
_TRIM_THRESHOLD: Final = -1
# cuBLAS and cuDNN allocate when they start, outside torch's allocator.
_NO_MEMORY: Final = re.compile(r"CUDA error: out of memory|CU(BLAS|DNN|SOLVER)_STATUS_(ALLOC_FAILED|NOT_INITIALIZED)")


def pick_device(name: str) -> torch.device:
    """The torch device of that name. `auto` is the first GPU if there is one, else the CPU.

    Raises:
        BadInput: this machine does not have the GPU.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BadInput(f"device is {name!r}, but this machine has {torch.cuda.device_count()} GPUs; use 'auto' or 'cpu'")
    return device


def release_memory() -> None:
    """Give back the memory of objects that are no longer used, and on a GPU what torch keeps of it for later."""
    import torch

    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def is_out_of_memory(fault: BaseException) -> bool:
    """True if a GPU has no memory left, whoever says so: torch's allocator, the driver, or a library that cannot start."""
    import torch

    if isinstance(fault, torch.OutOfMemoryError):
        return True
    return isinstance(fault, RuntimeError) and _NO_MEMORY.search(str(fault)) is not None


def derive_seed(seed: int, stream: int) -> int:
    """A seed for random stream number `stream` of a run. Every pair gives a different seed."""
    import numpy as np

    return int(np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)[0] >> 1)


def keep_freed_memory() -> None:
    """Keep freed memory in this process, so that the next step can use it again.

    Without this, glibc returns large blocks to the system, which clears their pages before it gives them out again. That takes
    a tenth of a step's time at batch 256. The peak memory of a trial stays the same. With another C library nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_MAX, 0)
        library.mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)


def differentiable_attention() -> None:
    """Make torch compute attention step by step in this process: its fused kernels have no derivatives of derivatives."""
    import torch

    for kernel in ("flash", "mem_efficient", "cudnn"):
        getattr(torch.backends.cuda, f"enable_{kernel}_sdp")(False)  # on CPUs too
    torch.backends.mha.set_fastpath_enabled(False)
