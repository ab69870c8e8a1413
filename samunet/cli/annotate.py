"""Annotate an image, or the cases of a dataset, with clicks, boxes and brushes in a browser on this machine.

Nothing that was accepted is lost, however it ends: start the command again, and it goes on. Ctrl-C ends it.
Examples: samunet_annotate -i case_0000.nii.gz -o labels/case.nii.gz; samunet_annotate -d 17 --predictions preds
"""

from __future__ import annotations

import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from samunet.cli.common import command, pairs, print_next
from samunet.cli.serve import Serving
from samunet.core.units import counted

if TYPE_CHECKING:
    from samunet.interaction.state import Thing
    from samunet.serving.desk import Work


@dataclass(frozen=True, kw_only=True)
class Options:
    images: Annotated[tuple[Path, ...], "-i IMAGE"] = ()
    """Image file, one for each channel."""
    output: Annotated[Path | None, "-o LABEL"] = None
    """Label file to write; with -d a folder (default: the dataset's labelsTr)."""
    dataset: Annotated[str | None, "-d DATASET"] = None
    """Dataset id or name: its cases one after the other, beginning with the first that has no label."""
    test: bool = False
    """With -d, the cases of imagesTs, into labelsTs."""
    predictions: Annotated[Path | None, "--predictions FOLDER"] = None
    """With -d, segmentations to begin with where there is no label yet."""
    labels: Annotated[tuple[str, ...], "--labels NAME=VALUE"] = ()
    """With -i, the objects by name (default: those of the label file, or one)."""
    no_browser: bool = False
    """Print the address only."""
    serving: Serving


@command("samunet_annotate", __doc__, Options)
def main(options: Options) -> None:
    from samunet.errors import ConfigError
    from samunet.serving.desk import Desk
    from samunet.serving.run import serve

    if (options.dataset is None) == (not options.images):
        raise ConfigError("Give -i IMAGE -o LABEL, or -d DATASET.")
    works, objects, table = _image(options) if options.dataset is None else _dataset(options, options.dataset)
    desk = Desk(works, options.serving.load(), objects=objects, cache=options.serving.cache, table=table)
    desk.open_first()

    def started(address: str) -> None:
        print(f"Annotating {counted(len(works), 'case')} at {address}", flush=True)
        if not options.no_browser:
            webbrowser.open(address)

    serve(desk, options.serving.port, started)
    print(f"Labels are in {works[0].output.parent}, what each case took in {table}; what was not saved is found again")
    if options.dataset is not None:
        print_next("samunet_plan_and_preprocess", "-d", options.dataset)


def _image(options: Options) -> tuple[list[Work], list[Thing], Path]:
    from samunet.errors import ConfigError
    from samunet.interaction.state import named_things
    from samunet.serving.desk import TABLE, Work, case_name

    if options.output is None:
        raise ConfigError("-i needs -o LABEL, the file to write.")
    if options.predictions is not None or options.test:
        raise ConfigError("--predictions and --test are for -d DATASET; leave them out.")
    start = options.output if options.output.is_file() else None
    work = Work(name=case_name(options.images[0]), images=options.images, output=options.output, start=start)
    named = pairs("--labels needs NAME=VALUE with a whole number", options.labels, r"(.+)=([1-9]\d*)", "liver=1")
    return [work], named_things({value: name for name, value in named}), options.output.parent / TABLE


def _dataset(options: Options, dataset: str) -> tuple[list[Work], list[Thing], Path]:
    from samunet.core.dataset import group_channels, read_dataset_json
    from samunet.core.workspace import workspace_from_environment
    from samunet.errors import ConfigError, DatasetError
    from samunet.interaction.state import named_things
    from samunet.serving.desk import TABLE, Work

    if options.labels:
        raise ConfigError("--labels is for -i IMAGE; dataset.json names those of a dataset.")
    workspace = workspace_from_environment()
    folder = workspace.raw / workspace.dataset_name(dataset)
    spec = read_dataset_json(folder / "dataset.json")
    images, labels = (folder / f"{kind}{'Ts' if options.test else 'Tr'}" for kind in ("images", "labels"))
    works, ending = [], spec.file_ending
    for name, files in group_channels(images, ending).items():
        output = (options.output or labels) / f"{name}{ending}"
        begins = (output, *([options.predictions / output.name] if options.predictions else []))
        start = next((path for path in begins if path.is_file()), None)
        works.append(Work(name=name, images=files, output=output, start=start))
    if not works:
        raise DatasetError(f"Folder {images} holds no image named <case>_0000{ending}; put the images there.")
    return works, named_things(spec.labels.names_of_values), folder / TABLE
