"""Label images by one to ten labeled cases of the same kind; what comes out are proposals to correct.

A method is first tried on the references themselves, each labeled by the others, and its Dice there is what to expect.
per_sam, per_sam_f: where slices are like the references' structures, a promptable model segments. registration: the
references' labels, brought onto each image. sam_mpa: these as prompts for the model. nearest: the most alike
reference's label as it is. auto: the best of them on the references.

Next: correct the proposals, and take the corrected cases out of "proposals" in dataset.json
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from samunet.cli.common import DEFAULT_THREADS, Device, Quiet, command, print_next


@dataclass(frozen=True, kw_only=True)
class Options:
    images: Annotated[tuple[Path, ...], "-i IMAGES"]
    """Images, or folders of them; references among them are left out."""
    references: Annotated[Path, "-r LABELED"]
    """Labeled cases: a dataset with dataset.json, or a folder with folders images and labels."""
    output: Annotated[Path, "-o PREDICTIONS"]
    """Folder for the segmentations and fewshot.json."""
    method: Literal["auto", "per_sam", "per_sam_f", "sam_mpa", "registration", "nearest"] = "auto"
    """How to label."""
    model: Annotated[str, "-m MODEL"] = "seed"
    """Promptable model: "seed" for the one that comes with samunet, a seed's file, or a checkpoint of SAM, MedSAM
    or HQ-SAM by file or name."""
    form: Literal["released", "log"] = "released"
    """Of PerSAM's attention in SAM: as its authors released it, or sharper."""
    deformation: Literal["demons", "bsplines", "none"] = "demons"
    """What follows the affine registration."""
    side: Annotated[int, "--side VOXELS"] = 128
    """Of images for registration, at most; half takes an eighth of the time."""
    seconds: Annotated[float, "--seconds N"] = 300.0
    """Time for the registration of a pair, after which it is given up."""
    workers: Annotated[int, "-np N"] = DEFAULT_THREADS
    """Pairs registered at a time, three a case at most."""
    cache: Annotated[Path | None, "--cache FOLDER"] = None
    """Keep what the model sees, about 1.5 MB a slice, for the next run."""
    preview: bool = False
    """Draw a slice of each proposal into PREDICTIONS/preview."""
    as_dataset: Annotated[str | None, "--as_dataset DatasetXXX_Name"] = None
    """Also write a dataset of nnUNet_raw: the references as they are, and the proposals, marked as such."""
    device: Device = None
    quiet: Quiet = False


@command("samunet_fewshot", __doc__, Options)
def main(options: Options) -> int:
    from samunet.core.units import counted
    from samunet.core.workspace import workspace_from_environment
    from samunet.fewshot.models import model_named
    from samunet.fewshot.registration import Registration
    from samunet.fewshot.run import PREVIEW, REPORT, Asked, propose_labels

    workspace = workspace_from_environment()
    asked = Asked(
        images=options.images,
        references=options.references,
        output=options.output,
        method=options.method,
        form=options.form,
        registration=Registration(deformation=options.deformation, side=options.side, seconds=options.seconds),
        workers=options.workers,
        preview=options.preview,
        dataset=options.as_dataset,
        raw=workspace.raw if options.as_dataset is not None else None,
        quiet=options.quiet,
    )
    model = model_named(
        options.model, device=options.device, cache=options.cache, weights_folders=workspace.weights_folders
    )
    done = propose_labels(asked, model)
    print(f"Wrote proposals of {counted(len(done.confidence), 'case')} by {done.method} to {options.output}, and")
    print(f"what to expect of them to {options.output / REPORT}")
    if options.preview:
        print(f"Wrote pictures to look at to {options.output / PREVIEW}")
    if done.dataset is not None:
        print(f"Wrote references and proposals to {done.dataset}")
        print_next("samunet_plan_and_preprocess", "-d", done.dataset.name)
    elif done.least_sure is not None:
        case, proposal = done.least_sure
        print(f"Correct {case.identifier} first, which is the least sure")
        print_next("samunet_annotate", "-i", *case.images, "-o", proposal)
    return 3 if done.failures else 0
