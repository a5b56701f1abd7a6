"""A trained generator as a folder: safetensors, config, model card and picture. Loading it needs torch alone.

from gbc import export
generator = export.load("exports/fashion_mnist-quick")
images = generator.sample(labels=[3] * 64, seed=0)   # [64, 1, 28, 28] in [0, 1]
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from numpy.typing import NDArray
from torch import Tensor

from gbc.checkpoint import write_atomic
from gbc.config import TrialConfig
from gbc.datasets import ImageDataset
from gbc.errors import BadInput, CorruptFile
from gbc.generator import Generator
from gbc.metrics import METRICS, controls
from gbc.settings import digest
from gbc.subject import labels_of_task, union
from gbc.tasks import World

VERSION: Final = 1
WEIGHTS: Final = "generator.safetensors"
CONFIG: Final = "config.json"
CARD: Final = "README.md"
PICTURE: Final = "samples.png"
_BATCH: Final = 512


@dataclass(frozen=True)
class ExportedGenerator:
    """A generator ready for use."""

    module: Generator
    class_names: tuple[str, ...]
    settings: TrialConfig
    metrics: dict[str, float]
    """What was measured when it was trained."""
    labels_of_task: list[list[int]]
    """Which labels each of the classifiers that it was born from knows (Algorithm 2)."""

    def sample(self, labels: Sequence[int] | Tensor, seed: int = 0) -> Tensor:
        """One image for each label, [K, channels, height, width] in [0, 1]; the same seed gives the same images.

        Raises:
            BadInput: a label the generator does not know.
        """
        return torch.cat(list(self.batches(labels, seed)))

    @torch.no_grad()
    def batches(self, labels: Sequence[int] | Tensor, seed: int = 0) -> Iterator[Tensor]:
        """As `sample`, a part at a time."""
        labels = torch.as_tensor(labels, dtype=torch.long)
        classes = len(self.class_names)
        if len(labels) and not (int(labels.min()) >= 0 and int(labels.max()) < classes):
            unknown = next(int(label) for label in labels if not 0 <= label < classes)
            raise BadInput(
                f"label {unknown} is unknown to this generator; it has 0 to {classes - 1}: {', '.join(self.class_names)}"
            )
        rng = torch.Generator().manual_seed(seed)
        for part in labels.split(_BATCH):
            noise = torch.randn(len(part), self.module.noise_dim, generator=rng)
            yield self.module(noise, part, self._draw_tasks(part, rng) if len(self.labels_of_task) > 1 else None)

    def _draw_tasks(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        """One of the classifiers that know the label, all alike, for each label [K]."""
        knows = torch.zeros(len(self.labels_of_task), len(self.class_names))
        for task, known in enumerate(self.labels_of_task):
            knows[task, known] = 1
        return torch.multinomial(knows[:, labels].T, 1, generator=rng).squeeze(1)


def write(
    out: Path,
    generator: Mapping[str, Tensor],
    settings: TrialConfig,
    world: World,
    metrics: Mapping[str, float],
    origin: str,
    picture: Path | None,
) -> Path:
    """Write the folder `out` in one move, with controls measured on the world's data beside the scores in the model card.

    `generator` are the weights, `origin` says in a line where they come from.

    Raises:
        BadInput: `out` exists already, or cannot be written.
    """
    from safetensors.torch import save

    check(out, settings)
    weights = {name: tensor.contiguous() for name, tensor in generator.items()}
    header = {
        "version": VERSION,
        "classes": list(union(world.classifiers)),
        "labels_of_task": labels_of_task(settings.subjects(), world.classifiers),
        "shape": list(world.classifiers[0].shape),
        "settings": settings.model_dump(mode="json"),
        "metrics": dict(metrics),
        "weights": _digest(weights),
    }
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    except OSError as fault:
        raise BadInput(f"{out.parent}: cannot be written: {fault.strerror}") from None
    try:
        write_atomic(temporary / WEIGHTS, save(weights))
        write_atomic(temporary / CONFIG, json.dumps(header, indent=2).encode())
        write_atomic(temporary / CARD, _card(out.name, settings, world.images, metrics, origin, picture is not None).encode())
        if picture is not None:
            shutil.copyfile(picture, temporary / PICTURE)
        temporary.chmod(0o755)
        os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def check(out: Path, settings: TrialConfig) -> None:
    """Whether a trial of these settings can be written to `out`: asked before a long training, and again after it.

    Raises:
        BadInput: `out` exists already, or there is no generator.
    """
    if out.exists():
        raise BadInput(f"{out}: exists already; choose another --out or remove it")
    if settings.generator == "pixels":
        raise BadInput("generator pixels makes no new images: there is nothing to export; see `python -m gbc baseline`")


def load(folder: str | Path) -> ExportedGenerator:
    """The generator in an exported folder.

    Raises:
        BadInput: there is no such folder, or another version wrote it.
        CorruptFile: a file is damaged or the weights were altered.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as unpack

    folder = Path(folder)
    try:
        header = json.loads((folder / CONFIG).read_text())
        weights = unpack((folder / WEIGHTS).read_bytes())
    except OSError as fault:
        raise BadInput(f"{folder}: not an exported generator ({fault.filename}: {fault.strerror})") from None
    except (ValueError, SafetensorError) as fault:
        raise CorruptFile(f"{folder}: damaged ({fault}); export it again") from None
    if header.get("version") != VERSION:
        raise BadInput(f"{folder}: export version {header.get('version')}, this package reads version {VERSION}")
    if header["weights"] != _digest(weights):
        raise CorruptFile(
            f"{folder / WEIGHTS}: the weights were altered (their digest does not match {CONFIG}); export it again"
        )
    settings = TrialConfig.parse(header["settings"], str(folder / CONFIG))
    module = Generator(
        classes=len(header["classes"]), shape=tuple(header["shape"]),
        noise_dim=settings.noise_dim, width=settings.width, channels=settings.channels, tasks=len(header["labels_of_task"]),
    )  # fmt: skip
    module.load_state_dict(weights)
    names = tuple(header["classes"])
    return ExportedGenerator(module.eval(), names, settings, header["metrics"], header["labels_of_task"])


def _digest(weights: Mapping[str, Tensor]) -> str:
    import hashlib

    return digest({name: hashlib.sha256(_bytes(tensor)).hexdigest() for name, tensor in weights.items()})


def _bytes(tensor: Tensor) -> bytes:
    array: NDArray[Any] = tensor.detach().cpu().numpy()
    return array.tobytes()


def _card(
    name: str, settings: TrialConfig, data: ImageDataset, metrics: Mapping[str, float], origin: str, pictured: bool
) -> str:
    known = ", ".join(f"{index} {label}" for index, label in enumerate(data.class_names))
    rows = {"this generator": metrics, **controls(data, settings.eval_per_class)}
    scores = "\n".join(f"| {row} | " + " | ".join(f"{found[key]:.3f}" for key in METRICS) + " |" for row, found in rows.items())
    others = "\n".join(
        f"| {key} | {value:.4g} |"
        for key, value in sorted(metrics.items())
        if key not in METRICS and not key.startswith("time/")
    )
    return f"""# {name}

An image generator born from a classifier (Yu & Wang, NeurIPS 2023): it was trained from the parameters of a classifier
of {settings.dataset.name}, without an image. {origin}

{f"![Odd rows: generated; even rows: the nearest training image]({PICTURE})" if pictured else ""}

```python
from gbc import export
generator = export.load("{name}")
images = generator.sample(labels=[0, 1, 1], seed=0)  # [3, channels, height, width] in [0, 1]
```

Labels: {known}.

## Scores

{settings.eval_per_class} images a class. These compare with real images and were not seen in training.

| images | {" | ".join(METRICS)} |
|---|{"---|" * len(METRICS)}
{scores}

At the end of training:

| metric | value |
|---|---|
{others}

## Limits and privacy

Quality differs between classes. Images like those of the training set can come out of a classifier's parameters: if the
classifier was trained on private data, treat its generator as private too.
"""
