"""A trained generator as a folder: safetensors, config, model card and picture.

from gbc import export
generator = export.load("exports/fashion_mnist-quick")
images = generator.sample(labels=[3] * 64, seed=0)   # [64, 1, 28, 28] in [0, 1]
"""

from gbc.export.drawing import ExportedGenerator
from gbc.export.folder import (
    CARD,
    CONFIG,
    PICTURE,
    WEIGHTS,
    check,
    check_new,
    data_and_classifiers,
    generator_weights,
    load,
    weights_digest,
    write,
)

__all__ = [
    "CARD",
    "CONFIG",
    "PICTURE",
    "WEIGHTS",
    "ExportedGenerator",
    "check",
    "check_new",
    "data_and_classifiers",
    "generator_weights",
    "load",
    "weights_digest",
    "write",
]  # fmt: skip
