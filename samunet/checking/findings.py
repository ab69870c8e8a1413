"""What can be wrong with a dataset: one entry per kind, with its severity and what to do about it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ERROR, WARNING = "error", "warning"
COPY = "Copy the file again from its source, or export it again."
REGRID = "Resample the one onto the other, or correct the header that is wrong."
KINDS: dict[str, tuple[str, str]] = {
    "dataset-json": (ERROR, "Correct dataset.json as nnU-Net's dataset format describes."),
    "splits": (ERROR, "Correct the splits file, or remove it; it is then made again."),
    "number-of-cases": (ERROR, "Set numTraining in dataset.json to the number of cases."),
    "missing-folder": (ERROR, "Keep training images in imagesTr and their labels in labelsTr."),
    "missing-file": (ERROR, "Put the file back, or remove its case."),
    "missing-label": (ERROR, "Add the label file, or remove the case's images."),
    "missing-image": (WARNING, "Add the images, or remove the label file; it is not used."),
    "file-name": (ERROR, "Rename the file to <case>_<4-digit channel><ending>."),
    "case-name": (
        ERROR,
        (
            "Rename the case: letters, digits, spaces and marks such as . - _ + ( ), no separator, no leading dot, 200 "
            "bytes at most."
        ),
    ),
    "stray-file": (WARNING, "Move the file elsewhere; it is not used."),
    "channel-gap": (ERROR, "Add the missing channel file, or renumber the files from 0000 without a gap."),
    "channel-count": (ERROR, "Add the missing files, or correct channel_names in dataset.json."),
    "channel-order": (
        WARNING,
        "Compare the channels of this case with those of others; put them in order if two have changed places.",
    ),
    "duplicate-image": (WARNING, "Keep one of the two; a case in training and validation makes scores too good."),
    "duplicate-channel": (WARNING, "Export the channel that is missing; two channels of this case are one image."),
    "odd-orientation": (
        WARNING,
        "Planning turns all cases to one orientation; check that this one is of the same kind as the others.",
    ),
    "odd-spacing": (
        WARNING,
        (
            "Check the unit of the header (micrometers or meters for millimeters), or leave the case out if it is of "
            "another kind."
        ),
    ),
    "odd-size": (
        WARNING,
        "Check the spacing and that the image shows what the others show; leave the case out if it is of another kind.",
    ),
    "odd-intensities": (
        WARNING,
        "Check units and rescaling of the image, or leave the case out if it is of another kind.",
    ),
    "patients": (
        WARNING,
        'Put "groups" into dataset.json, which keeps each patient on one side of every split; '
        '"(.*)" where these are no patients.',
    ),
    "mixed-dimensions": (ERROR, "Keep 2D and 3D images in two datasets."),
    "truncated": (ERROR, COPY),
    "corrupted": (ERROR, COPY),
    "checksum": (ERROR, COPY),
    "not-gzip": (ERROR, "Compress the file with gzip."),
    "header": (ERROR, "Export the file again, or correct its header."),
    "unreadable": (ERROR, COPY),
    "too-large": (ERROR, "Check the case on a machine with more memory, or crop or resample it."),
    "pixel-form": (ERROR, "Save the image as grey or RGB, a label's indices as grey; 3D stacks as grey."),
    "number-type": (ERROR, "Save real numbers; magnitude and phase as two channels."),
    "not-finite": (ERROR, "Replace NaN and infinite values, for example by the smallest value of the image."),
    "constant-image": (ERROR, "Export the image again, or remove its case; every voxel has one value."),
    "constant-channel": (WARNING, "Check the export of that channel; every voxel of it has one value."),
    "axes-singular": (ERROR, "Correct the header; two of the file's axes coincide."),
    "axes-sheared": (
        WARNING,
        "Resample the image, or import it with --orthonormalize; readers turn the axes to the nearest orthogonal ones.",
    ),
    "qform-sform": (WARNING, "Make both affines of the NIfTI header equal; programs differ in which one they take."),
    "pixdim-sform": (
        ERROR,
        "Correct the header; readers take the spacing from pixdim, other programs from the affine.",
    ),
    "pixdim-sign": (
        WARNING,
        "Correct the header to positive spacings; ITK turns such an axis round, nibabel does not.",
    ),
    "shape": (ERROR, REGRID),
    "spacing": (ERROR, REGRID),
    "position": (
        ERROR,
        "Correct the header that is wrong (samunet_import --copy_grid gives labels the image's grid), or resample the "
        "one.",
    ),
    "position-near": (
        WARNING,
        "The image's grid is used; correct the header of the one that is wrong, or import with --copy_grid.",
    ),
    "no-spacing": (
        WARNING,
        'Put {"spacing": [D, H, W]} in mm into a file <case>.json beside the stack; without it sizes count in voxels.',
    ),
    "channel-position": (
        WARNING,
        "Correct the headers if the channels are aligned, else register them; the first channel's grid is used.",
    ),
    "label-channels": (ERROR, "Save the label values as one grey channel."),
    "label-fraction": (ERROR, "Make the label again with nearest-neighbor interpolation."),
    "label-values": (
        ERROR,
        "Correct the label file (samunet_import --map_labels does in copies), or the labels in dataset.json.",
    ),
    "no-foreground": (WARNING, "Check that the label belongs to this image; a case without any structure is allowed."),
    "left-right": (WARNING, "Check the orientation of image and label, or which label is left."),
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One fault."""

    case: str
    """Identifier, or an empty string where it is none of one case."""
    file: str
    """Path relative to the dataset's folder, or an empty string."""
    code: str
    """Kind of the fault, a key of KINDS."""
    message: str
    """What was measured, in one or two sentences."""

    @property
    def severity(self) -> str:
        return KINDS[self.code][0]

    @property
    def fix(self) -> str:
        return KINDS[self.code][1]

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "severity": self.severity, "fix": self.fix}


def relative(file: Path | None, root: Path) -> str:
    """Return a file's name as findings give it."""
    if file is None:
        return ""
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file)
