"""The model card of an exported generator: its origin, scores, use, limits and risks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from gbc import plain_yaml
from gbc.config import TrialConfig
from gbc.errors import BadInput
from gbc.export import leak
from gbc.export.formats import FORMATS, JUDGED_INPUTS
from gbc.metrics.leakage import FALSE_ALARMS
from gbc.metrics.scores import METRICS, controls
from gbc.metrics.statistics import RECONSTRUCTED
from gbc.training.tasks import TrialInputs

if TYPE_CHECKING:
    from gbc.export.drawing import ExportedGenerator


class Licence(NamedTuple):
    """Licence of a data set."""

    identifier: str
    """Name of the licence on model hubs."""
    notice: str


LICENCES: Final = {
    "fashion_mnist": Licence("mit", "Fashion-MNIST: MIT, © 2017 Zalando SE, https://github.com/zalandoresearch/fashion-mnist"),
    "mnist": Licence("cc-by-sa-3.0", "MNIST: CC BY-SA 3.0, Yann LeCun and Corinna Cortes, derived from the NIST data sets"),
    "digits": Licence("cc-by-4.0", "Optical Recognition of Handwritten Digits: CC BY 4.0, E. Alpaydin and C. Kaynak, UCI"),
    "celeba": Licence("other", "CelebA: for non-commercial research only, Multimedia Laboratory, CUHK"),
}
_UNKNOWN: Final = Licence("other", "licence not known to this package")

_MEASURED: Final = """## Limits

- Quality differs between classes, and no score here sees everything: read each beside its controls. Black images are no worse
  at `ssim/nearest` than some generators.
- It was measured against the data of its classifier. How well it serves to train other models is what `tstr/1nn` hints at."""
_NOT_MEASURED: Final = """## Limits

- It was compared with no image. Its classifier can be sure of images that people do not recognise, and of one image a class
  made over and over: look at many samples before you use them.
- Quality differs between classes. Nothing here says how well it serves to train other models."""
_LIMITS: Final = """- It knows the classes above and nothing else, at this size alone; where its classifier was wrong, so is it.

## Privacy

The authors of the method warn that a generator trained from a classifier may leak what the classifier has seen: of a model
trained on medical records, personal photographs or posts, what comes out can harm the people in it, and generated images can
be misused for false news, fraud or identity theft (Yu & Wang, Generator Born from Classifier, NeurIPS 2023, supplement B.5).
That no image was used here is no protection: the parameters carry them. If the classifier was trained on private data, treat
this generator as private too, and let it out only where the data might go.
"""
_LEAKAGE_NOT_MEASURED: Final = """How near samples come to the images of the classifier is not known: there were none to
compare with. Where they are, `python -m gbc leak --images PATH` measures it."""


def text(name: str, generator: ExportedGenerator, inputs: TrialInputs, pictured: bool, files: Sequence[str]) -> str:
    """The model card of the folder `name` in Markdown; `files` are those of further formats in it."""
    data_free = generator.settings.data_free
    sets = [] if data_free else list(dict.fromkeys(spec.dataset.name for spec in generator.settings.classifiers()))
    labels = ", ".join(f"{index} {label}" for index, label in enumerate(generator.class_names))
    size = "×".join(map(str, generator.shape[1:]))
    caption = "Generated images" if data_free else "Odd rows: generated; even rows: the nearest training image"
    columns = "A column holds one class, in the order of the labels."
    picture = f"![{caption}](samples.png)\n\n*{caption}. {columns}*\n\n" if pictured else ""
    return f"""{_front_matter(sets)}
# {name}

An image generator born from a classifier (Yu & Wang, NeurIPS 2023): it was trained from the parameters of a classifier
{"" if data_free else f"of {inputs.data.name}, "}without an image. {generator.origin["says"]} Images are {size} pixels.

Labels: {labels}.

{picture}## Use

{_use(name, generator, files)}

## What it was born from

{_origin(generator, sets)}

Settings that are not this package's defaults:

```yaml
{plain_yaml.dump(changed(generator.settings)).strip()}
```

{_without_images(name, generator) if data_free else _scores(generator, inputs)}

{_NOT_MEASURED if data_free else _MEASURED}
{_LIMITS}
{_LEAKAGE_NOT_MEASURED if data_free else _leakage(generator, inputs)}
"""


def changed(settings: TrialConfig) -> dict[str, Any]:
    """The settings that differ from the defaults, in the form that `python -m gbc train --config` reads."""
    return _without(settings.model_dump(mode="json"), TrialConfig().model_dump(mode="json"))


def _without(settings: dict[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    different = {}
    for key, value in settings.items():
        default = defaults.get(key)
        if isinstance(value, dict) and isinstance(default, dict):
            value, default = _without(value, default), {}
        if value != default:
            different[key] = value
    return different


def _front_matter(sets: Sequence[str]) -> str:
    licences = {LICENCES.get(name, _UNKNOWN).identifier for name in sets}
    head = {
        "license": licences.pop() if len(licences) == 1 else "other",
        "library_name": "gbc-search",
        "tags": ["image-generation", "class-conditional", "generator-born-from-classifier", "pytorch"],
        **({"datasets": list(sets)} if sets else {}),
    }
    return f"---\n{plain_yaml.dump(head)}---\n"


def _use(name: str, generator: ExportedGenerator, files: Sequence[str]) -> str:
    shape = f"[3, {', '.join(map(str, generator.shape))}]"
    labels = [0, 1, 1]
    tasks = [next(t for t, task_labels in enumerate(generator.labels_of_task) if label in task_labels) for label in labels]
    several, dim = generator.module.tasks > 1, generator.module.noise_dim
    blocks = [
        f"""With the package gbc-search, from the folder above this one:

```python
from gbc import export

generator = export.load("{name}")
images = generator.sample(labels={labels}, seed=0)  # {shape} in [0, 1]
logged = generator.judged()  # the samples that the scores below speak of, the first of them in the picture
```"""
    ]
    if FORMATS["torch"].file in files:
        blocks.append(f"""With torch alone, in this folder:

```python
import numpy as np
import torch

generator = torch.export.load("{FORMATS["torch"].file}").module()
labels = torch.tensor({labels})
noise = torch.randn(3, {dim}, generator=torch.Generator().manual_seed(0))
{f"tasks = torch.tensor({tasks})  # which of the classifiers{chr(10)}" if several else ""}images = generator(noise, labels{
            ", tasks" if several else ""
        }).detach()  # {shape} in [0, 1]
logged = generator(*(torch.from_numpy(array) for array in np.load("{JUDGED_INPUTS}").values())).detach()
```""")
    if FORMATS["onnx"].file in files:
        blocks.append(f"""With onnxruntime, in this folder:

```python
import numpy as np
import onnxruntime

generator = onnxruntime.InferenceSession("{FORMATS["onnx"].file}", providers=["CPUExecutionProvider"])
labels = np.array({labels})
noise = np.random.default_rng(0).standard_normal((3, {dim}), dtype=np.float32)
inputs = {{"noise": noise, "labels": labels{f', "tasks": np.array({tasks})' if several else ""}}}
(images,) = generator.run(None, inputs)  # {shape} in [0, 1]
(logged,) = generator.run(None, dict(np.load("{JUDGED_INPUTS}")))
```""")
    if files:
        inputs = "noise, labels and classifier numbers" if several else "noise and labels"
        blocks.append(f"`{JUDGED_INPUTS}` holds the {inputs} of the samples that were judged.")
    return "\n\n".join(blocks)


def _origin(generator: ExportedGenerator, sets: Sequence[str]) -> str:
    rows = []
    for origin, spec in zip(generator.origin["classifiers"], generator.settings.classifiers(), strict=True):
        regime = "not known"
        if "accuracy" in origin:
            regime = f"training accuracy {origin['accuracy']:.3f}"
        if "smallest_margin" in origin:
            regime += f", smallest margin {origin['smallest_margin']:.2f}"
        if "accuracy" in origin and "steps" in origin:
            regime += f", {origin['steps']} steps" + (f", loss {origin['loss']:.4f}" if "loss" in origin else "")
        weights = "the user's weights" if spec.classifier.weights else "trained by this package"
        source = "" if spec.dataset.data_free else f"{spec.dataset.name}, "
        rows.append(
            f"| {spec.classifier.label} | {weights} | {source}{origin['samples']} images | {regime} | `{origin['digest']}` |"
        )
    return f"""| classifier | weights | trained on | regime | digest |
|---|---|---|---|---|
{chr(10).join(rows)}

{_licences(generator, sets)}"""


def _licences(generator: ExportedGenerator, sets: Sequence[str]) -> str:
    if not sets:
        return (
            "The images that the classifier was trained on were not given, and so their licence is not known. It goes with\n"
            "what was born from them."
        )
    notices = "\n".join(f"- {LICENCES.get(name, _UNKNOWN).notice}{'' if name in LICENCES else f' ({name})'}" for name in sets)
    return f"""Data (digest `{generator.origin["data"]["digest"]}`), whose licence and notices go with what was born from it:

{notices}"""


def _scores(generator: ExportedGenerator, inputs: TrialInputs) -> str:
    metrics, per_class = generator.metrics, generator.settings.eval_per_class
    rows = {"this generator": metrics, **controls(inputs.images, per_class)}
    scores = "\n".join(
        f"| {row} | " + " | ".join(f"{values[key]:.3f}" if key in values else "" for key in METRICS) + " |"
        for row, values in rows.items()
    )
    return f"""## Scores

{per_class} images a class. These compare with real images and were not seen in training.

| images | {" | ".join(METRICS)} |
|---|{"---|" * len(METRICS)}
{scores}

At the end of training:

{_last_metrics(metrics)}"""


def _without_images(name: str, generator: ExportedGenerator) -> str:
    """The section of scores where there were no images to compare with."""
    return f"""## Scores

**Nothing was measured against images**, because there were none (data set `none`). How near these come to real ones, how much
of their variety they have, and what another network learns from them is not known. Where there are images, this measures it:

```sh
python -m gbc evaluate --model {name} --images PATH   # or --dataset NAME
```

At the end of training the classifier alone said of {generator.settings.eval_per_class} images a class:

{_last_metrics(generator.metrics)}"""


def _last_metrics(metrics: Mapping[str, float]) -> str:
    rows = [
        f"| {key} | {value:.4g} |"
        for key, value in sorted(metrics.items())
        if key not in METRICS and not key.startswith("time/")
    ]
    return "\n".join(["| metric | value |", "|---|---|", *rows])


def _leakage(generator: ExportedGenerator, inputs: TrialInputs) -> str:
    """The section on leakage, by SSIM alone: a feature network would have to be trained first."""
    try:
        result, _ = leak.measure(generator, inputs.images)
    except BadInput as fault:
        return f"Not measured: how well samples reconstruct training images ({fault})."
    strongest = max(result.by_class, key=lambda name: result.by_class[name].auc)
    notes = "".join(f"\n- {note}" for note in leak.caveats(generator, inputs.images))
    return f"""How well {result.samples} samples reconstruct {result.members} training images, and as many held-out images of
the same classes, each image matched with a sample of its own:

| | training images | held-out images |
|---|---|---|
| matched with SSIM above {RECONSTRUCTED} | {result.reconstructed} | {result.reconstructed_held_out} |
| caught at 1% false alarms | {round(result.ssim.caught * result.members)} | {int(FALSE_ALARMS * result.members)} |

- SSIM as a test of membership: {result.ssim.text()}
- The highest of {len(result.by_class)} classes, {strongest}: {result.by_class[strongest].text()}
- Control, real images in place of samples: {result.control.text()}{notes}

This is no proof of privacy: it speaks of these samples and of SSIM. `python -m gbc leak` measures more."""
