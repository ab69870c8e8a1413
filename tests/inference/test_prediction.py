"""A prediction has its axes in the order of its image's, and becomes the kind of object that its image is."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from samunet.core.geometry import Geometry
from samunet.core.volume import Volume
from samunet.errors import DatasetError, ShapeError
from samunet.imageio import reader_for
from samunet.imageio.objects import as_volume
from samunet.inference.prediction import Prediction

AFFINE = np.array([[0.0, -2.0, 0, 5], [1.5, 0, 0, -7], [0, 0, 3, 11], [0, 0, 0, 1]])  # axes swapped and one turned
READER = reader_for(".nii.gz")


class MetaTensor(torch.Tensor):
    """What MONAI's looks like from outside."""

    def __new__(cls, data, affine):
        made = torch.as_tensor(data).as_subclass(cls)
        made.affine = torch.as_tensor(affine)
        return made


def bright(image) -> Prediction:
    """Segment what is above 10, in the order of the volume's axes."""
    volume = as_volume(image, READER)
    labels = (volume.array[0] > 10).astype(np.uint8)
    return Prediction.of(image, volume.geometry, labels, labels[None].astype(np.float32), None, (("spot", 1),))


def spotted() -> np.ndarray:
    array = np.zeros((4, 5, 6), np.float32)
    array[1, 2, 3] = 20
    return array


def test_a_segmentation_lies_where_the_image_of_nibabel_does():
    image = nibabel.Nifti1Image(spotted(), AFFINE)
    found = bright(image)
    assert found.segmentation.shape == (4, 5, 6) and found.segmentation[1, 2, 3] == 1 == found.segmentation.sum()
    assert found.probabilities.shape == (1, 4, 5, 6) and found.probabilities[0, 1, 2, 3] == 1
    assert found.zyx.shape == found.geometry.shape == (6, 5, 4)
    for made in (found.like_image(), found.to_nibabel()):
        assert np.allclose(made.affine, AFFINE) and np.array_equal(np.asarray(made.dataobj), found.segmentation)
    assert np.array_equal(np.asarray(found), found.segmentation)


def test_a_segmentation_of_an_itk_image_lies_on_it():
    image = sitk.GetImageFromArray(spotted())
    image.SetSpacing((1.0, 2.0, 3.0))
    image.SetOrigin((5.0, -7.0, 11.0))
    image.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
    made = bright(image).like_image()
    assert made.GetDirection() == image.GetDirection() and made.GetOrigin() == pytest.approx(image.GetOrigin())
    assert made.GetSpacing() == pytest.approx(image.GetSpacing()) and made[3, 2, 1] == 1
    flat = sitk.GetImageFromArray(spotted()[1])
    flat.SetSpacing((2.0, 3.0))
    made = bright(flat).like_image()
    assert made.GetDimension() == 2 and made.GetSpacing() == pytest.approx((2.0, 3.0)) and made[3, 2] == 1


def test_tensors_give_tensors():
    found = bright((torch.from_numpy(spotted()), (3.0, 2.0, 1.0)))
    assert torch.equal(found.like_image(), torch.from_numpy(spotted() > 10).int())
    tensor = MetaTensor(spotted()[None], AFFINE)
    found = bright(tensor)
    assert found.segmentation.shape == (4, 5, 6)
    made = found.like_image()
    assert type(made) is MetaTensor and made.shape == (1, 4, 5, 6) and made[0, 1, 2, 3] == 1 == made.sum()
    assert np.allclose(made.affine, AFFINE)
    assert np.allclose(found.to_nibabel().affine, AFFINE)
    with pytest.raises(ShapeError, match=r"give \(array, spacing\)"):
        bright(torch.zeros(4, 5, 6))


def test_arrays_and_volumes_give_arrays():
    array = spotted()
    assert np.array_equal(bright((array, (3.0, 2.0, 1.0))).like_image(), array > 10)
    flat = bright((array[1], (2.0, 1.0)))
    assert flat.segmentation.shape == (1, 5, 6) and np.array_equal(flat.like_image(), array[1] > 10)
    volume = Volume(array=array[None], geometry=Geometry(shape=array.shape, spacing=(1, 1, 1)))
    assert np.array_equal(bright(volume).like_image(), array > 10)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha", ".tif"])
def test_a_saved_segmentation_is_what_was_found(ending, tmp_path):
    found = bright(nibabel.Nifti1Image(spotted(), AFFINE))
    path = found.save(tmp_path / f"a{ending}")
    label, geometry = reader_for(ending, None, path).read_label(path)
    assert np.array_equal(label, found.zyx)
    if ending != ".tif":
        assert geometry.corner_distance_mm(found.geometry) < 1e-4
    with pytest.raises(DatasetError, match="its folder does not exist"):
        found.save(tmp_path / "no" / "a.nii.gz")
    with pytest.raises(DatasetError, match="ending '.txt'"):
        found.save(tmp_path / "a.txt")


def test_it_is_shown_in_a_line():
    assert repr(bright(nibabel.Nifti1Image(spotted(), AFFINE))) == "Prediction(4 x 5 x 6, uint8; voxels: spot 1)"
