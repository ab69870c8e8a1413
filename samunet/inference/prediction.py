"""What a predictor returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from samunet.core.geometry import Geometry
from samunet.errors import DatasetError
from samunet.imageio import known_ending, writer_for
from samunet.imageio.objects import ImageLike, has_xyz_axes, like, to_nibabel

if TYPE_CHECKING:
    import nibabel


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A segmentation on the grid of its image, its axes in the order of the image's.

    They are (D, H, W), but (X, Y, Z) for images of nibabel and MetaTensors of MONAI, whose arrays have that order:
    `nibabel.Nifti1Image(prediction.segmentation, image.affine)` lies where the image does.
    """

    segmentation: np.ndarray
    """(D, H, W) or (X, Y, Z) label values, uint8 or uint16."""
    geometry: Geometry
    """The grid, with axes D, H, W whatever the order above."""
    probabilities: np.ndarray | None = None
    """(K, ...) float32, when asked for."""
    uncertainty: np.ndarray | None = None
    """As the segmentation, float32 in [0, 1], with the option of that name; see `samunet.inference.passes.combine`."""
    names: tuple[tuple[str, int], ...] = ()
    """Foreground classes and their label values."""
    image: ImageLike = field(default=None, compare=False)
    """What was segmented."""

    @classmethod
    def of(
        cls,
        image: ImageLike,
        geometry: Geometry,
        segmentation: np.ndarray,
        probabilities: np.ndarray | None,
        uncertainty: np.ndarray | None,
        names: tuple[tuple[str, int], ...],
    ) -> Prediction:
        """Put (D, H, W) results into the order of an image's axes."""
        xyz = has_xyz_axes(image)

        def ordered(array: np.ndarray | None) -> np.ndarray | None:
            if array is None or not xyz:
                return array
            return np.moveaxis(array, (-1, -2, -3), (-3, -2, -1))

        swapped = segmentation.T if xyz else segmentation
        return cls(
            segmentation=swapped,
            geometry=geometry,
            probabilities=ordered(probabilities),
            uncertainty=ordered(uncertainty),
            names=names,
            image=image,
        )

    @property
    def zyx(self) -> np.ndarray:
        """The label values as (D, H, W), whatever the image was."""
        return self.segmentation.T if has_xyz_axes(self.image) else self.segmentation

    def like_image(self) -> Any:
        """Return the segmentation as the kind of object the image was, see `samunet.imageio.objects.like`."""
        return like(self.image, self.zyx, self.geometry)

    def to_nibabel(self) -> nibabel.Nifti1Image:
        """Return the segmentation as an image of nibabel's."""
        return to_nibabel(self.zyx, self.geometry)

    def save(self, path: Path | str) -> Path:
        """Write the segmentation, whole or not at all; the ending says how, such as .nii.gz, .nrrd, .mha, .png or .tif.
        Raises DatasetError where no writer knows the ending, or the folder does not exist.

        Returns:
            The path.
        """
        path = Path(path)
        if not path.parent.is_dir():
            raise DatasetError(f"{path} cannot be written; its folder does not exist. Make it first.")
        writer = writer_for(known_ending(path) or path.suffix, None, planar=self.geometry.planar)
        writer.write_segmentation(self.zyx, self.geometry, path)
        return path

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.segmentation, dtype=dtype) if copy or dtype is not None else self.segmentation

    def __repr__(self) -> str:
        size, labels = " x ".join(map(str, self.segmentation.shape)), self.segmentation
        counts = [f"{name} {np.count_nonzero(labels == value)}" for name, value in self.names]
        return f"Prediction({size}, {labels.dtype}; voxels: {', '.join(counts) or np.count_nonzero(labels)})"
