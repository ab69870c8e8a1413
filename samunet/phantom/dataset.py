"""A procedural dataset in nnU-Net's raw layout, so that every step can be tried without a download."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from samunet.core import parts
from samunet.core.codec import read_json, write_json
from samunet.core.geometry import Geometry
from samunet.core.units import counted
from samunet.errors import DatasetError
from samunet.phantom.abdomen import ORGANS, ORIENTATIONS, draw_abdomen

KEY = "samunet_phantom"  # free key of dataset.json that tells with which numbers the dataset was made


def write_phantom_dataset(
    raw_folder: Path,
    *,
    seed: int = 17,
    num_training: int = 12,
    num_test: int = 4,
    name: str = "Dataset017_PhantomAbdomen",
) -> Path:
    """Write CT-like abdomens with five labeled structures and return the dataset folder.

    Equal arguments give equal bytes. A complete dataset made with the same arguments is left as it is; the folder
    appears whole or not at all. Test cases have references in labelsTs.

    Raises:
        DatasetError: the folder exists and holds something else.
    """
    names = [f"abdomen_{index:03d}" for index in range(num_training + num_test)]
    description = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, **ORGANS},
        "numTraining": num_training,
        "file_ending": ".nii.gz",
        "description": "Procedural abdomen phantom in the style of a CT; no patient data.",
        KEY: {"kind": "abdomen", "seed": seed, "num_training": num_training, "num_test": num_test},
    }
    target = raw_folder / name
    files = dataset_files(names[:num_training], names[num_training:], ".nii.gz", 1)
    if is_complete(target, description, files):
        return target
    with new_dataset(target, description, files) as folder:
        for index, case in enumerate(names):
            part = "Tr" if index < num_training else "Ts"
            image, label, geometry = draw_abdomen(
                np.random.default_rng([seed, index]), ORIENTATIONS[index % len(ORIENTATIONS)]
            )
            write_array(folder / f"images{part}" / f"{case}_0000.nii.gz", image, geometry)
            write_array(folder / f"labels{part}" / f"{case}.nii.gz", label, geometry)
    return target


def dataset_files(training: Sequence[str], test: Sequence[str], file_ending: str, files_per_case: int) -> list[str]:
    """Return the paths of all images and labels within the dataset folder."""
    files = []
    for part, cases in (("Tr", training), ("Ts", test)):
        for case in cases:
            files.append(f"labels{part}/{case}{file_ending}")
            files.extend(f"images{part}/{case}_{channel:04d}{file_ending}" for channel in range(files_per_case))
    return files


def is_complete(target: Path, description: dict[str, object], files: Sequence[str]) -> bool:
    """Tell whether `target` is already this dataset; raises DatasetError when it is another one or lacks files."""
    if not target.exists():
        return False
    if not (target / "dataset.json").is_file() or read_json(target / "dataset.json") != json.loads(
        json.dumps(description)
    ):
        raise DatasetError(
            f"Folder {target} exists and is not the phantom asked for; remove it, or choose another name or folder."
        )
    missing = [file for file in files if not (target / file).is_file()]
    if missing:
        raise DatasetError(
            f"Folder {target} lacks {counted(len(missing), 'file')}, e.g. {missing[0]}; remove it and write it again."
        )
    return True


@contextmanager
def new_dataset(target: Path, description: dict[str, object], files: Sequence[str]) -> Iterator[Path]:
    """Give a folder to fill that gets its dataset.json and becomes `target` at the end; on failure nothing remains."""
    target.parent.mkdir(parents=True, exist_ok=True)
    parts.remove_dead_parts(target.parent)
    temporary = target.parent / parts.part_name()
    parts.begin_part(temporary)
    try:
        folder = temporary / target.name
        with parts.naming(target):
            for file in files:
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
            yield folder
            write_json(folder / "dataset.json", description)
            os.replace(folder, target)
    finally:
        parts.end_part(temporary)


def write_array(path: Path, array: np.ndarray, geometry: Geometry) -> None:
    """Write (D, H, W) voxels on their grid; the bytes hold no clock time."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(geometry.spacing[::-1])
    image.SetOrigin(geometry.origin)
    image.SetDirection(np.array(geometry.direction)[::-1].T.ravel().tolist())
    sitk.WriteImage(image, str(path), useCompression=True)
