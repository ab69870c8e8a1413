"""Encode images for annotation beforehand, for example on a machine with a GPU; samunet_annotate --cache takes them.

Next: samunet_annotate -i IMAGE -o LABEL --cache CACHE
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from samunet.cli.common import Quiet, command
from samunet.cli.serve import Serving
from samunet.core.units import counted, readable

if TYPE_CHECKING:
    from samunet.interaction.slices import PlaneModel


@dataclass(frozen=True, kw_only=True)
class Options:
    images: Annotated[tuple[Path, ...], "-i IMAGES"]
    """Image files, or a folder of images named <case>_0000<ending>."""
    output: Annotated[Path, "-o CACHE"]
    """Folder for the embeddings, a folder for each case."""
    axes: Annotated[tuple[int, ...], "-axes AXIS"] = (0,)
    """Across which file axes planes will be annotated: 0 is z, 1 y, 2 x."""
    model: Annotated[str, "-m MODEL"] = Serving.model
    """"seed", a seed's file, or a checkpoint of SAM by file or name."""
    device: Annotated[str | None, "-device NAME", "cuda, cuda:1, mps or cpu (default: the best one present)."] = None
    quiet: Quiet = False


@command("samunet_embed", __doc__, Options)
def main(options: Options) -> int:
    from samunet.core.parts import is_full
    from samunet.errors import ConfigError, in_words
    from samunet.interaction.volumes import VolumeModel
    from samunet.serving.desk import cases_in

    if not options.axes or not {*options.axes} <= {0, 1, 2}:
        raise ConfigError(f"-axes are 0, 1 and 2; got {list(options.axes)}.")
    model = Serving(model=options.model, device=options.device).load()
    if isinstance(model, VolumeModel):
        raise ConfigError(f"Model {model.name} segments volumes; only planes are encoded beforehand.")
    cases, failed = cases_in(options.images), []
    for number, (name, files) in enumerate(cases.items(), 1):
        try:
            _embed(options, model, name, files, f"{number} of {len(cases)}")
        except Exception as error:  # whatever is wrong with this one, the others go on
            if len(cases) == 1 or is_full(error):
                raise
            failed.append(name)
            print(f"Case '{name}' failed: {in_words(error)}", file=sys.stderr)
    print(f"Embeddings of {counted(len(cases) - len(failed), 'case')} are in {options.output}")
    return 3 if failed else 0


def _embed(options: Options, model: PlaneModel, name: str, files: tuple[Path, ...], which: str) -> None:
    from samunet.errors import ConfigError
    from samunet.imageio import reader_of_image
    from samunet.interaction.embeddings import Embeddings, image_sha256
    from samunet.machine.progress import bar

    volume = reader_of_image(files[0], None).read_image(files)
    looks = Embeddings(volume, model, image_sha256(volume), options.output / name)
    axes = looks.missing(sorted({*options.axes}))
    size, count = looks.size(axes), sum(volume.geometry.shape[axis] for axis in axes)
    print(f"{name} ({which}): {counted(count, 'plane')}, {readable(size)} at most", flush=True)
    options.output.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(options.output).free
    if size > free:
        raise ConfigError(
            f"{options.output} has {readable(free)} left and {name} needs up to {readable(size)}; make space, or "
            "encode fewer axes."
        )
    done = iter(bar(range(count), title=name, quiet=options.quiet))
    if axes:
        looks.fill(axes, lambda *_: next(done, None) is not None)
