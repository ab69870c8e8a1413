"""Say which cases are worth labeling first: those that stand for the others, by what a model sees in them.

Next: label these, then samunet_fewshot -i IMAGES -r LABELED -o PREDICTIONS
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from samunet.cli.common import Device, Quiet, command


@dataclass(frozen=True, kw_only=True)
class Options:
    images: Annotated[tuple[Path, ...], "-i IMAGES"]
    """Images, or folders of them."""
    count: Annotated[int, "-n N"] = 5
    """Cases to choose."""
    model: Annotated[str, "-m MODEL"] = "seed"
    """As in samunet_fewshot."""
    cache: Annotated[Path | None, "--cache FOLDER"] = None
    """Keep what the model sees, about 1.5 MB a slice, for the next run."""
    device: Device = None
    quiet: Quiet = False


@command("samunet_choose_cases", __doc__, Options)
def main(options: Options) -> int:
    from samunet.core.workspace import workspace_from_environment
    from samunet.fewshot.models import model_named
    from samunet.fewshot.run import choose_cases

    folders = workspace_from_environment().weights_folders
    model = model_named(options.model, device=options.device, cache=options.cache, weights_folders=folders)
    chosen = choose_cases(options.images, options.count, model, quiet=options.quiet)
    for name in chosen.names:
        print(name)
    return 3 if chosen.failures else 0
