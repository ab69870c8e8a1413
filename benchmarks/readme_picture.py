"""Draw the README's picture from the folder of samunet_demo: the test case of median Dice. It is a phantom, no person.

samunet_demo -o samunet_demo
python benchmarks/readme_picture.py samunet_demo
"""

from __future__ import annotations

import sys
from pathlib import Path

import samunet
from samunet.comparison.score_page import case_name, worst_first
from samunet.core.dataset import read_dataset_json
from samunet.evaluation.picture import draw_case
from samunet.imageio import reader_of_segmentations

PICTURE = Path(__file__).parents[1] / "documentation" / "images" / "demo.png"


def main(demo: Path) -> None:
    """Write the picture."""
    raw, predictions = demo / "nnUNet_raw" / "Dataset017_PhantomAbdomen", demo / "predictions"
    dataset = read_dataset_json(raw / "dataset.json")
    reader = reader_of_segmentations(predictions, dataset)
    cases = worst_first(samunet.evaluate(raw / "labelsTs", predictions, tolerance=None).cases)
    name = case_name(cases[len(cases) // 2], dataset.file_ending)
    volume = reader.read_image([raw / "imagesTs" / f"{name}_0000.nii.gz"])
    overlays = {
        title: reader.read_label(folder / f"{name}.nii.gz")[0]
        for title, folder in (("reference", raw / "labelsTs"), ("prediction", predictions))
    }
    PICTURE.write_bytes(draw_case(name, volume.array[0], overlays, volume.geometry, dataset.labels.names_of_values).png)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
