"""Answer programs of this machine (3D Slicer, napari, your own) that annotate images with clicks. They send the images.

The address that is printed holds a token; whoever knows it may use the server. Ctrl-C ends it.
Example: samunet_serve -o labels
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from samunet.cli.common import Device, command

if TYPE_CHECKING:
    from samunet.interaction.slices import PlaneModel
    from samunet.interaction.volumes import VolumeModel


@dataclass(frozen=True, kw_only=True)
class Serving:
    """With which model, and where."""

    model: Annotated[str, "-m MODEL"] = "seed"
    """"seed", a seed's file, the folder of a trained model with prompts, or a checkpoint of SAM by file or name."""
    cache: Annotated[Path | None, "--cache FOLDER"] = None
    """Embeddings of samunet_embed; missing ones are made while you work."""
    port: Annotated[int, "--port N"] = 0
    """Of this machine (default: a free one)."""
    device: Device = None

    def load(self) -> PlaneModel | VolumeModel:
        """Load the model, and let it have all cores of this machine."""
        from samunet.core.workspace import workspace_from_environment
        from samunet.interaction.choose import model_named

        return model_named(self.model, self.device, workspace_from_environment().weights_folders)


@dataclass(frozen=True, kw_only=True)
class Options:
    output: Annotated[Path, "-o FOLDER"]
    """Folder for labels, and for the journals of what was done."""
    serving: Serving


@command("samunet_serve", __doc__, Options)
def main(options: Options) -> None:
    from samunet.serving.desk import Desk
    from samunet.serving.run import serve

    desk = Desk((), options.serving.load(), cache=options.serving.cache, folder=options.output)
    serve(desk, options.serving.port, lambda address: print(f"Listening at {address}", flush=True))
    print(f"Labels that were saved are in {options.output}; what was not is found again")
