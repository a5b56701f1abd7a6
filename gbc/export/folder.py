"""An exported generator as a folder: written atomically, verified when it is read."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray
from torch import Tensor

from gbc.checkpoint import write_atomic
from gbc.config import TrialConfig
from gbc.errors import BadInput, CorruptFile
from gbc.export.drawing import ExportedGenerator
from gbc.settings import digest
from gbc.training.evaluation_latents import EvaluationLatents
from gbc.training.generator import Generator
from gbc.training.tasks import TrialInputs

VERSION: Final = 2
WEIGHTS: Final = "generator.safetensors"
CONFIG: Final = "config.json"
CARD: Final = "README.md"
PICTURE: Final = "samples.png"


def write(
    out: Path,
    generator: Mapping[str, Tensor],
    settings: TrialConfig,
    inputs: TrialInputs,
    metrics: Mapping[str, float],
    origin: str,
    picture: Path | None,
    *,
    formats: Sequence[str] = (),
    threads: int = 1,
) -> Path:
    """Write the folder `out` atomically. Its model card has the scores of control sets on the task's data, if there are any.

    `generator` are the weights, `origin` is a sentence about where they come from, `threads` is the number of torch threads in
    training. `formats` are written in addition to safetensors, see `formats.FORMATS`.

    Raises:
        BadInput: `out` exists already or cannot be written, a package for a format is missing, or the program in a file draws
            other images than the generator.
    """
    from safetensors.torch import save

    from gbc.export import model_card
    from gbc.export.formats import FORMATS, JUDGED_INPUTS, program_inputs, require_packages
    from gbc.kkt.trial_classifier import all_class_names, labels_of_task

    check(out, settings)
    require_packages(formats)
    if not settings.data_free:
        _ = inputs.images  # raises for points, before anything is written
    weights = {name: tensor.contiguous() for name, tensor in generator.items()}
    names, task_labels = all_class_names(inputs.classifiers), labels_of_task(settings.classifiers(), inputs.classifiers)
    header: dict[str, Any] = {
        "version": VERSION,
        "classes": list(names),
        "labels_of_task": task_labels,
        "shape": list(inputs.classifiers[0].shape),
        "settings": settings.model_dump(mode="json"),
        "metrics": dict(metrics),
        "judged": EvaluationLatents.of(settings, task_labels, len(names), threads).to_json(),
        "origin": {"says": origin, **data_and_classifiers(inputs)},
        "weights": weights_digest(weights),
        "files": {},
    }
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    except OSError as fault:
        raise BadInput(f"{out.parent}: cannot be written: {fault.strerror}") from None
    try:
        write_atomic(temporary / WEIGHTS, save(weights))
        exported = _build(header, weights)
        for name in [name for name in FORMATS if name in formats]:
            chosen = FORMATS[name]
            chosen.write(temporary / chosen.file, exported)
            header["files"][chosen.file] = file_digest(temporary / chosen.file)
        if header["files"]:
            write_atomic(temporary / JUDGED_INPUTS, program_inputs(exported))
            header["files"][JUDGED_INPUTS] = file_digest(temporary / JUDGED_INPUTS)
        if picture is not None:
            shutil.copyfile(picture, temporary / PICTURE)
        write_atomic(temporary / CONFIG, _json(header).encode())
        card = model_card.text(out.name, exported, inputs, picture is not None, list(header["files"]))
        write_atomic(temporary / CARD, card.encode())
        temporary.chmod(0o755)
        os.replace(temporary, out)
    except OSError as fault:
        raise BadInput(f"{out}: cannot be written: {fault.strerror or fault}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def generator_weights(state: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """The weights that `Trainer.sample` uses, from a `Trainer.state_dict()`: those of the moving average if there is one."""
    weights: Mapping[str, Tensor] = state.get("average", state["generator"])
    return weights


def check(out: Path, settings: TrialConfig) -> None:
    """Check that a trial with these settings can be exported to `out`; called before a long training and again after it.

    Raises:
        BadInput: `out` exists already, or there is no generator.
    """
    check_new(out)
    if settings.generator == "pixels":
        raise BadInput("generator pixels makes no new images: there is nothing to export; see `python -m gbc baseline`")


def check_new(out: Path) -> None:
    """Refuse an `out` that exists.

    Raises:
        BadInput: `out` exists already.
    """
    if out.exists():
        raise BadInput(f"{out}: exists already; choose another --out or remove it")


def load(folder: str | Path) -> ExportedGenerator:
    """The generator in an exported folder. Files of other formats are compared with their digests.

    Raises:
        BadInput: there is no such folder, or another version wrote it.
        CorruptFile: a file is damaged or was altered.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as unpack

    folder = Path(folder)
    try:
        header = json.loads((folder / CONFIG).read_text())
        weights = unpack((folder / WEIGHTS).read_bytes())
    except OSError as fault:
        raise BadInput(f"{folder}: not an exported generator ({fault.filename}: {fault.strerror})") from None
    except (ValueError, RecursionError, SafetensorError) as fault:
        raise CorruptFile(f"{folder}: damaged ({fault}); export it again") from None
    if not isinstance(header, dict) or header.get("version") != VERSION:
        version = header.get("version") if isinstance(header, dict) else None
        raise BadInput(f"{folder}: export version {version}, this package reads version {VERSION}; export it again")
    try:
        if header["weights"] != weights_digest(weights):
            raise CorruptFile(
                f"{folder / WEIGHTS}: the weights were altered (their digest does not match {CONFIG}); export it again"
            )
        for name, expected in header["files"].items():
            if (folder / name).exists() and file_digest(folder / name) != expected:
                raise CorruptFile(f"{folder / name}: was altered (its digest does not match {CONFIG}); export it again")
        return _build(header, weights)
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as fault:
        reason = " ".join(str(fault).split())[:120]
        raise CorruptFile(f"{folder / CONFIG}: damaged ({type(fault).__name__}: {reason}); export it again") from None


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Sixteen hex digits of the names and values of all tensors."""
    return digest({name: hashlib.sha256(_bytes(tensor)).hexdigest() for name, tensor in weights.items()})


def data_and_classifiers(inputs: TrialInputs) -> dict[str, Any]:
    """Name and digest of the data, and of each classifier digest, name, samples and, if known, regime; plain data."""
    classifiers = []
    for number, (classifier, regime) in enumerate(zip(inputs.classifiers, inputs.regimes, strict=True)):
        origin: dict[str, Any] = {"samples": classifier.samples, "digest": weights_digest(classifier.module.state_dict())}
        if number < len(inputs.folders):
            origin = {"name": inputs.folders[number].name, **origin}
        origin |= {key: regime[key] for key in ("steps", "loss", "accuracy") if key in regime}
        if "margins" in regime:
            origin["smallest_margin"] = regime["margins"]["min"]
        classifiers.append(origin)
    return {"data": {"name": inputs.data.name, "digest": inputs.data.digest()}, "classifiers": classifiers}


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _build(header: Mapping[str, Any], weights: Mapping[str, Tensor]) -> ExportedGenerator:
    settings = TrialConfig.parse(header["settings"], CONFIG)
    module = Generator(
        classes=len(header["classes"]), shape=tuple(header["shape"]),
        noise_dim=settings.noise_dim, width=settings.width, channels=settings.channels, tasks=len(header["labels_of_task"]),
    )  # fmt: skip
    module.load_state_dict(dict(weights))
    return ExportedGenerator(
        module.eval(), tuple(header["shape"]), tuple(header["classes"]), settings, header["metrics"], header["labels_of_task"],
        EvaluationLatents(**header["judged"]), header["origin"],
    )  # fmt: skip


def _json(header: Mapping[str, Any]) -> str:
    """Indented JSON in which every list of numbers is one line, so that people can read it."""
    return re.sub(r"\[[\s\d,]+\]", lambda numbers: " ".join(numbers[0].split()), json.dumps(header, indent=2))


def _bytes(tensor: Tensor) -> bytes:
    array: NDArray[Any] = tensor.detach().cpu().numpy()
    return array.tobytes()
