"""Say which cases are worth labeling first: those that stand for the others, by what a model sees in them.

Next: label these, for example with samunet_annotate, then samunet_fewshot -i IMAGES -r LABELED -o PREDICTIONS
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from samunet.cli.common import Device, Quiet, command, print_next


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


@command("samunet_choose_cases", __doc__, Options, piped=True)
def main(options: Options) -> int:
    from samunet.core.workspace import workspace_from_environment
    from samunet.fewshot.models import model_named
    from samunet.fewshot.run import choose_cases
    from samunet.imageio import output_ending
    from samunet.importing.dataset import SERIES_ENDING

    folders = workspace_from_environment().weights_folders
    model = model_named(options.model, device=options.device, cache=options.cache, weights_folders=folders)
    chosen = choose_cases(options.images, options.count, model, quiet=options.quiet)
    for case in chosen.cases:
        print(case.identifier)
    first = chosen.cases[0]
    label = Path("LABELED", "labels", f"{first.identifier}{output_ending(first.images[0], SERIES_ENDING)}")
    print_next("samunet_annotate", "-i", *first.images, "-o", label, file=sys.stderr)
    return 3 if chosen.failures else 0
