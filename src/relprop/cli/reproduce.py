"""`relprop reproduce`: the tables and figures of the paper, from one command each."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from relprop.cli import console, options
from relprop.cli.evaluate import absolute, execute, specs
from relprop.documents import naming
from relprop.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

    from relprop.data import Dataset
    from relprop.evaluation import Plan
    from relprop.evaluation.store import Store
    from relprop.models import LoadedModel
    from relprop.reproduce.cost import Network
    from relprop.reproduce.setting import Setting
    from relprop.reproduce.table import Job

_what = partial(typer.Option, rich_help_panel="What is repeated on what")
_TABLES, _FIGURES = ("table1", "table2", "table3"), ("figure3", "figure5", "figure6", "figure7")

Experiment = Literal["table1", "table2", "table3", "figure3", "figure5", "figure6", "figure7"]


@dataclass(frozen=True)
class Defaults:
    """The paper's own model and data."""

    model: str
    data: str
    seeds: str
    figure_seed: str = "0"


DEFAULTS = {
    "imagenet": Defaults("resnet50", "imagenet:data/imagenet", "0"),
    "cub": Defaults("runs/cub/seed-{seed}/model.safetensors", "cub:data/CUB_200_2011", "40-44", "42"),
}
SAMPLES = {"table1": 1000, "table2": 1000, "table3": 1000, "figure3": 1, "figure5": 5, "figure6": 3, "figure7": 100}

Which = Annotated[Experiment, typer.Argument(metavar="EXPERIMENT", help=", ".join((*_TABLES, *_FIGURES)))]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        "-m",
        help="As for evaluate. Several, or {seed} in the name, give mean ± standard deviation over models.",
        show_default="resnet50; on CUB runs/cub/seed-{seed}/model.safetensors",
    ),
]
Data = Annotated[
    list[str] | None,
    _what(
        "--data",
        "-d",
        help="As for evaluate. figure5 takes several, each with a --model of its own.",
        show_default="imagenet:data/imagenet",
    ),
]
Samples = Annotated[
    int | None,
    _what(
        "--samples",
        "-n",
        min=1,
        help="Pictures, equally many of each class.",
        show_default="1000 for tables, 100 for figure7, few for pictures",
    ),
]
Seeds = Annotated[
    str | None,
    _what(
        help="For {seed} in --model; else of the choice of pictures. 40-44 or 0,1,2.",
        show_default="0; on CUB 40-44, for figures 42",
    ),
]
Against = Annotated[
    Literal["imagenet", "cub"] | None,
    _what(
        help="Which published column stands beside; it also sets the defaults.",
        show_default="cub for data of that kind, else imagenet",
    ),
]
Composite = Annotated[
    Literal["paper", "released"],
    _what("--composite", "-c", help="Rules of the proposed method: made exact, or the authors' code."),
]
Methods = Annotated[
    str | None,
    _what(
        show_default="all",
        help="table1, figure5: lrp, integrated-gradients, guided-backprop, grad-cam, score-cam, proposed; with commas.",
    ),
]
CamLayer = Annotated[
    str | None,
    _what(
        "--cam-layer", show_default="the last", help="table1, figure5: module whose maps Grad-CAM and Score-CAM read."
    ),
]
Also = Annotated[str | None, _what(help="table1: explainers that the paper does not have, e.g. rise,layer-cam.")]
Variants = Annotated[
    str | None,
    _what(show_default="i", help="table3: which of i, ii, iii, iv of Table 2 are shown with and without quantization."),
]
Images = Annotated[
    str | None, _what(help="figure3, 5, 6: pictures by class, id, file name, or files called by a class; with commas.")
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder of results and runs.")]


def reproduce(
    *,
    experiment: Which,
    model: Models = None,
    data: Data = None,
    samples: Samples = None,
    seeds: Seeds = None,
    against: Against = None,
    composite: Composite = "paper",
    methods: Methods = None,
    cam_layer: CamLayer = None,
    also: Also = None,
    variants: Variants = None,
    images: Images = None,
    step: options.Step = None,
    amp: options.Amp = False,
    out: Out = Path("runs/reproduce"),
    workers: options.Workers,
    batch_size: options.BatchSize = 16,
    network: options.Network,
    classes: options.Classes = None,
) -> int:
    """Repeat a table or figure of the paper, with its numbers beside ours.

    The authors' five CUB networks: reproduce table1 --against cub --model
    'checkpoints/CUB_resnet50_Seed{seed}/best.pt' --arch resnet50 --data cub:DIR.
    ImageNet: --model resnet50 is torchvision's ResNet50_Weights.IMAGENET1K_V1, the default, as is a file of them.

    Without options on the paper's own: ResNet-50 with those weights, 1,000 validation pictures; with --against cub,
    five checkpoints of `relprop train cub`. Any model and data can be used instead, and the caption says so. Only
    tables have scores; with --amp Score-CAM sees its masked pictures in bfloat16 too. A table that was killed goes on
    where it was. Exit code 1 if pictures could not be read, or if paper() does not conserve in figure7.
    """
    for option, given, those in (
        ("--step", step is not None, _TABLES),
        ("--amp", amp, _TABLES),
        ("--methods", methods is not None, ("table1", "figure5")),
        ("--cam-layer", cam_layer is not None, ("table1", "figure5")),
        ("--images", images is not None, ("figure3", "figure5", "figure6")),
        ("--also", also is not None, ("table1",)),
        ("--variants", variants is not None, ("table3",)),
        ("--workers", workers.workers is not None, _TABLES),
        ("--ray", workers.ray is not None, _TABLES),
        ("--composite", composite != "paper", (*_TABLES, "figure3", "figure5", "figure6")),
        ("--against", against is not None, _TABLES),
    ):
        if given and experiment not in those:
            raise UsageError(f"{option} goes with {', '.join(those)}, and does nothing for {experiment}")
    from relprop.reproduce.setting import Setting, with_seeds

    column: Literal["imagenet", "cub"] = against or _column(data[0] if data else "")
    default = DEFAULTS[column]
    if data and len(data) > 1:
        if experiment != "figure5":
            raise UsageError(f"{experiment} is of one data set, and figure5 alone of several; give --data once")
        sources = _pairs(model, data)
    else:
        sources = [(name, data[0] if data else default.data) for name in (model or [default.model])]
    usual = default.seeds if experiment in _TABLES else default.figure_seed
    names, left = with_seeds([name for name, _ in sources], _numbers(seeds or usual))
    mixed = len(sources) > 1 and experiment == "figure5"
    setting = Setting(
        models=tuple(_network_of(name, network, mixed).spec(name) for name in names),
        data=absolute(sources[0][1]),
        samples=samples or SAMPLES[experiment],
        seeds=left,
        composite=composite,
        cam_layer=cam_layer,
        methods=specs(methods) if methods is not None else (),
        also=specs(also) if also is not None else (),
        variants=specs(variants) if variants is not None else ("i",),
        images=specs(images) if images is not None else (),
        step=step,
        batch=batch_size,
        amp=amp,
        device=network.chosen_device(),
    )
    if experiment in _TABLES:
        if classes is not None:
            raise UsageError(f"{experiment} names no classes; --classes is of figure3, figure5 and figure6")
        return _table(experiment, setting, out, column, workers)
    if mixed and len(names) == len(sources):
        settings = [
            replace(setting, models=(spec,), data=absolute(where))
            for spec, (_, where) in zip(setting.models, sources, strict=True)
        ]
        return _figure(experiment, settings, out, classes)
    return _figure(experiment, [setting], out, classes)


def _column(data: str) -> Literal["imagenet", "cub"]:
    return "cub" if data.startswith("cub:") else "imagenet"


def _pairs(models: list[str] | None, data: list[str]) -> list[tuple[str, str]]:
    """Give each data set its model, in turn; without any, the paper's for data of its kind."""
    given = models or [DEFAULTS[_column(spec)].model for spec in data]
    if len(given) != len(data):
        raise UsageError(f"{len(data)} data sets need as many models, one each in turn; {len(given)} were given")
    return list(zip(given, data, strict=True))


def _network_of(name: str, network: options.Network, mixed: bool) -> options.Network:
    """Of several models `--arch` is that of the checkpoints among them."""
    return network if not mixed or Path(name).is_file() else replace(network, arch=None)


def _numbers(text: str) -> tuple[int, ...]:
    """Read "40-44" or "0,1,2"."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match is None:
            raise UsageError(f"--seeds takes whole numbers such as 0,1,2 or 40-44, not {text!r}")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    if not found or len(set(found)) < len(found):
        raise UsageError(f"--seeds {text!r} names no seed, or one twice")
    return tuple(found)


def _table(
    name: str, setting: Setting, out: Path, against: Literal["imagenet", "cub"], workers: options.Workers
) -> int:
    """Measure a table, write it in every format, and print it."""
    from relprop.reproduce.render import FORMATS
    from relprop.reproduce.table import make_table

    def measure(plan: Plan, folder: Path, what: str) -> Store:
        if not console.err.is_terminal:
            console.err.print(f"{what} → {folder}", soft_wrap=True, markup=False)
        return execute(plan, folder, setting.device, workers, what)

    def announce(jobs: Sequence[Job], network: Network) -> None:
        console.err.print(_costs(jobs, network, setting, out, workers), soft_wrap=True, markup=False)

    table = make_table(name, setting, out, measure, against, announce)
    written = {suffix: write(table) for suffix, write in FORMATS.items()}
    paths = [_written(out / f"{name}.{suffix}", content) for suffix, content in written.items()]
    console.write(written["txt"])
    _tell(paths)
    return 1 if table.unread else 0


def _written(path: Path, content: str) -> Path:
    with naming(path):
        path.write_text(content, encoding="utf-8")
    return path


def _costs(jobs: Sequence[Job], network: Network, setting: Setting, out: Path, workers: options.Workers) -> str:
    """Say how many forward passes are left, and what time they take at the speed measured here."""
    from relprop.evaluation.store import share_done
    from relprop.reproduce.cost import passes

    each = [passes(job.plan, network) for job in jobs]
    left = [
        count * setting.samples * (1 - share_done(out / "runs" / job.plan.digest))
        for count, job in zip(each, jobs, strict=True)
    ]
    runs = len(setting.models) * len(setting.seeds)
    seconds = sum(left) * network.seconds
    text = f"about {sum(each) // runs:,} forward passes a picture, {round(sum(left)):,} in all: "
    text += f"{console.duration(seconds)} at {1 / network.seconds:.0f} a second, measured here with one worker"
    if (count := workers.workers or 1) > 1:
        text += f"; {console.duration(seconds / count)} with {count} of its speed"
    elif workers.ray is not None:
        text += "; divide by the workers of the cluster"
    return text


def _figure(name: str, settings: Sequence[Setting], out: Path, classes: Path | None) -> int:
    """Draw a figure, and write it as PNG and PDF."""
    from relprop.data import open_dataset
    from relprop.evaluation.setup import load
    from relprop.models.classes import read_classes, require_count

    if any(len(setting.models) > 1 or len(setting.seeds) > 1 for setting in settings):
        raise UsageError(f"{name} shows one model and one choice of pictures; give one --model, and one of --seeds")
    if classes is not None and len(settings) > 1:
        raise UsageError("--classes names the classes of one model; leave it out where there are several")
    names = None if classes is None else read_classes(classes)
    opened = [open_dataset(setting.data) for setting in settings]
    with console.waiting("loading the model"):
        models = [load(setting.models[0], setting.device) for setting in settings]
    if names is not None:
        require_count(models[0].name, names, models[0].outputs())
        opened = [replace(opened[0], classes=names)]
    loaded, dataset, setting = models[0], opened[0], settings[0]
    if name == "figure7":
        return _figure7(loaded, dataset, setting, out)
    from relprop.reproduce import figures
    from relprop.reproduce.pictures import with_files

    opened = [with_files(one, model, setting.images) for one, model in zip(opened, models, strict=True)]
    ours = ", ".join(f"{one.model_names} on {one.data_name}" for one in settings)
    caption = f"Published: ResNet-50 on {_PUBLISHED[name]}. Ours: {ours}"
    caption += ", rules as released." if setting.composite == "released" else "."
    caption += f" {_READ}"
    with console.waiting(f"drawing {name}"):
        parts = [figures.Part(*one) for one in zip(models, opened, settings, strict=True)]
        if name == "figure5":
            figure = figures.figure5(parts, caption)
        else:
            draw = figures.figure3 if name == "figure3" else figures.figure6
            figure = draw(parts[0], caption)
    _save(name, figure, out)
    return 0


_PUBLISHED = {"figure3": "ImageNet", "figure5": "CUB and ImageNet", "figure6": "ImageNet", "figure7": "ImageNet"}
_READ = "True class explained; colours of each map up to its 99.5th percentile."


def _figure7(loaded: LoadedModel, dataset: Dataset, setting: Setting, out: Path) -> int:
    from relprop.reproduce import figure7

    with console.progress("explaining", setting.samples) as advance:
        sums = figure7.measure(loaded, dataset, setting, advance)
    caption = (
        f"Published: ResNet-50 on 100 pictures of ImageNet, all points on the diagonal. Ours: {setting.model_names} on "
        f"{setting.data_name}, {len(sums.samples)} pictures, predicted class."
    )
    _save("figure7", figure7.draw(sums, caption), out, {"csv": figure7.comma_separated(sums)})
    made = console.table("rules", "title", "layer", ">largest |ΣR - p| / p")
    for composite, title, layer, deviation in figure7.lines(sums):
        made.add_row(f"{composite}()", title, console.escape(layer), f"{deviation:.1e}")
    console.show(made)
    console.out.print(
        console.verdict(
            sums.holds, *(f"paper() {word} within {figure7.TOLERANCE:g}" for word in ("conserves", "does not conserve"))
        )
    )
    return 0 if sums.holds else 1


def _save(name: str, figure: Figure, out: Path, texts: dict[str, str] | None = None) -> None:
    from relprop import viz

    paths = [viz.save(figure, out / f"{name}.{suffix}") for suffix in ("png", "pdf")]
    _tell([*paths, *(_written(out / f"{name}.{suffix}", content) for suffix, content in (texts or {}).items())])


def _tell(paths: Sequence[Path]) -> None:
    for path in paths:
        console.wrote(path, console.err)
