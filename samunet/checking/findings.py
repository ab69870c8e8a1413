"""What can be wrong with a dataset: one entry per kind, with its severity and what to do about it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ERROR, WARNING = "error", "warning"
COPY = "Copy the file again from its source, or export it again."
REGRID = "Resample the one onto the other, or correct the header that is wrong."
ERRORS = {
    "dataset-json": "Correct dataset.json as nnU-Net's dataset format describes.",
    "splits": "Correct the splits file, or remove it; it is then made again.",
    "number-of-cases": "Set numTraining in dataset.json to the number of cases.",
    "missing-folder": "Keep training images in imagesTr and their labels in labelsTr.",
    "missing-file": "Put the file back, or remove its case.",
    "missing-label": "Add the label file, or remove the case's images.",
    "file-name": "Rename the file to <case>_<4-digit channel><ending>.",
    "case-name": (
        "Rename the case: letters, digits, spaces and marks such as . - _ + ( ), no separator, no leading dot, 200 "
        "bytes at most."
    ),
    "channel-gap": "Add the missing channel file, or renumber the files from 0000 without a gap.",
    "channel-count": "Add the missing files, or correct channel_names in dataset.json.",
    "mixed-dimensions": "Keep 2D and 3D images in two datasets.",
    "truncated": COPY,
    "corrupted": COPY,
    "checksum": COPY,
    "not-gzip": "Compress the file with gzip.",
    "header": "Export the file again, or correct its header.",
    "unreadable": COPY,
    "too-large": "Check the case on a machine with more memory, or crop or resample it.",
    "pixel-form": "Save the image as grey or RGB, a label's indices as grey; 3D stacks as grey.",
    "number-type": "Save real numbers; magnitude and phase as two channels.",
    "not-finite": "Replace NaN and infinite values, for example by the smallest value of the image.",
    "constant-image": "Export the image again, or remove its case; every voxel has one value.",
    "axes-singular": "Correct the header; two of the file's axes coincide.",
    "pixdim-sform": "Correct the header; readers take the spacing from pixdim, other programs from the affine.",
    "shape": REGRID,
    "spacing": REGRID,
    "position": (
        "Correct the header that is wrong (samunet_import --copy_grid gives labels the image's grid), or resample the "
        "one."
    ),
    "label-channels": "Save the label values as one grey channel.",
    "label-fraction": "Make the label again with nearest-neighbor interpolation.",
    "label-values": (
        "Correct the label file (samunet_import --map_labels does in copies), or the labels in dataset.json."
    ),
}
WARNINGS = {
    "missing-image": "Add the images, or remove the label file; it is not used.",
    "stray-file": "Move the file elsewhere; it is not used.",
    "channel-order": (
        "Compare the channels of this case with those of others; put them in order if two have changed places."
    ),
    "duplicate-image": "Keep one of the two; a case in training and validation makes scores too good.",
    "duplicate-channel": "Export the channel that is missing; two channels of this case are one image.",
    "odd-orientation": (
        "Planning turns all cases to one orientation; check that this one is of the same kind as the others."
    ),
    "odd-spacing": (
        "Check the unit of the header (micrometers or meters for millimeters), or leave the case out if it is of "
        "another kind."
    ),
    "odd-size": (
        "Check the spacing and that the image shows what the others show; leave the case out if it is of another kind."
    ),
    "odd-intensities": "Check units and rescaling of the image, or leave the case out if it is of another kind.",
    "patients": (
        'Put "groups" into dataset.json, which keeps each patient on one side of every split; "(.*)" where these are '
        "no patients."
    ),
    "constant-channel": "Check the export of that channel; every voxel of it has one value.",
    "axes-sheared": (
        "Resample the image, or import it with --orthonormalize; readers turn the axes to the nearest orthogonal ones."
    ),
    "qform-sform": "Make both affines of the NIfTI header equal; programs differ in which one they take.",
    "pixdim-sign": "Correct the header to positive spacings; ITK turns such an axis round, nibabel does not.",
    "position-near": (
        "The image's grid is used; correct the header of the one that is wrong, or import with --copy_grid."
    ),
    "no-spacing": (
        'Put {"spacing": [D, H, W]} in mm into a file <case>.json beside the stack; without it sizes count in voxels.'
    ),
    "channel-position": (
        "Correct the headers if the channels are aligned, else register them; the first channel's grid is used."
    ),
    "no-foreground": "Check that the label belongs to this image; a case without any structure is allowed.",
    "left-right": "Check the orientation of image and label, or which label is left.",
}
KINDS = {code: (ERROR, fix) for code, fix in ERRORS.items()} | {code: (WARNING, fix) for code, fix in WARNINGS.items()}
"""Severity of each kind, and what to do about it."""


@dataclass(frozen=True)
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
    cases: tuple[str, ...] = ()
    """Identifiers of those that have the fault, where it is one of several."""

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
