"""What does not fit on the disk leaves no file, whichever library writes."""

import subprocess
import sys

LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from samunet.core.geometry import Geometry
from samunet.imageio import READERS
label = np.random.default_rng(0).integers(0, 255, (20, 40, 50)).astype(np.uint8)
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))  # no file may grow beyond, which is to libraries as a full disk
by_itk = [("SimpleITKIO", ending) for ending in (".nii.gz", ".nii", ".nrrd", ".mha", ".gipl")]
for name, ending in [*by_itk, ("NibabelIO", ".nii.gz")]:
    writer = next(reader for reader in READERS if reader.name == name)
    geometry = Geometry(shape=label.shape, spacing=(1.0, 1.0, 1.0))
    try:
        writer.write_segmentation(label, geometry, Path(sys.argv[1], f"case{ending}"))
        print(ending, "was written")
    except Exception as error:
        print(ending, type(error).__name__, f"case{ending}" in str(error))
"""


def test_no_file_that_did_not_fit_on_the_disk_takes_its_place(tmp_path):
    done = subprocess.run([sys.executable, "-c", LIMITED, tmp_path], capture_output=True, text=True, check=True)
    refused = [f"{ending} ImageFileError True" for ending in (".nii.gz", ".nii", ".nrrd", ".mha", ".gipl")]
    assert done.stdout.splitlines() == [*refused, ".nii.gz OSError True"]
    assert not list(tmp_path.iterdir())
