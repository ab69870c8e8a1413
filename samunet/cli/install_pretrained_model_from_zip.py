"""Put a model that samunet_export_model_to_zip packed into nnUNet_results; nothing is written before all of it is
verified.

Next: samunet_predict -i IMAGES -o PREDICTIONS
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from samunet.cli.common import command


@dataclass(frozen=True, kw_only=True)
class Options:
    zip: Annotated[Path, "FILE"]
    """Zip file of a model."""
    overwrite: bool = False
    """Replace a model of the same name."""


@command("samunet_install_pretrained_model_from_zip", __doc__, Options)
def main(options: Options) -> None:
    from samunet.checkpoints.model_zip import install_model
    from samunet.core.workspace import workspace_from_environment

    folder = install_model(options.zip, workspace_from_environment(), overwrite=options.overwrite)
    print(f"Installed {folder}")
