"""NIfTI through SimpleITK and nibabel: geometry, channels, and files that are refused."""

import gzip
import itertools
import logging

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from samunet.core.geometry import Geometry
from samunet.errors import DatasetError, ImageFileError, ShapeError
from samunet.imageio import READERS
from samunet.imageio.itk import from_itk

SITK = next(reader for reader in READERS if reader.name == "SimpleITKIO")
NIBABEL = next(reader for reader in READERS if reader.name == "NibabelIO")
BOTH = pytest.mark.parametrize("reader", [SITK, NIBABEL], ids=lambda reader: reader.name)
SPACING = (0.7, 1.1, 3.0)  # x, y, z in mm
ORIENTATIONS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))


def phantom() -> np.ndarray:
    """(x, y, z) = (5, 4, 3) labels without any symmetry."""
    return np.arange(60, dtype=np.uint8).reshape(5, 4, 3)


def oriented_affine(axes, signs) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, list(axes)] * np.array(signs) * np.array(SPACING)
    affine[:3, 3] = (-12.5, 7.25, 101.0)
    return affine


def oblique_affine() -> np.ndarray:
    a, b, c = 0.3, -0.5, 0.2
    turn = (
        np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
        @ np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
        @ np.array([[1, 0, 0], [0, np.cos(c), -np.sin(c)], [0, np.sin(c), np.cos(c)]])
    )
    affine = np.eye(4)
    affine[:3, :3] = turn * np.array(SPACING)
    affine[:3, 3] = (3.0, -40.0, 12.0)
    return affine


def save(path, array, affine, *, sform=1, qform=1):
    image = nibabel.Nifti1Image(array, affine)
    if affine is not None:
        image.set_sform(affine, code=sform)
        image.set_qform(affine, code=qform)
    nibabel.save(image, path)
    return path


AFFINES = [oriented_affine(*orientation) for orientation in ORIENTATIONS] + [oblique_affine()]


@BOTH
@pytest.mark.parametrize("affine", AFFINES, ids=[f"{a}{s}" for a, s in ORIENTATIONS] + ["oblique"])
def test_every_orientation_comes_back_with_its_affine(reader, affine, tmp_path):
    source = save(tmp_path / "in.nii.gz", phantom(), affine)
    volume = reader.read_image([source])
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array[0], phantom().T)
    np.testing.assert_allclose(volume.geometry.spacing, SPACING[::-1], rtol=1e-6)
    step_w = np.array(volume.geometry.direction[2]) * volume.geometry.spacing[2]
    np.testing.assert_allclose(step_w, affine[:3, 0] * (-1, -1, 1), atol=1e-5)  # W is the file's x axis; LPS = -RAS
    reader.write_segmentation(volume.array[0].astype(np.uint8), volume.geometry, tmp_path / "out.nii.gz")
    written = nibabel.load(tmp_path / "out.nii.gz")
    np.testing.assert_allclose(written.affine, affine, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(written.dataobj), phantom())
    assert written.get_data_dtype() == np.uint8


def by_simpleitk(path):
    """The oracle: the voxels and the grid as SimpleITK itself reads them."""
    return from_itk(sitk.ReadImage(str(path)), path)


@pytest.mark.parametrize("sform,qform", [(1, 1), (2, 1), (0, 1), (1, 0), (2, 0), (0, 0), (3, 4)])
@pytest.mark.parametrize("unit", ["mm", "meter", "micron", "unknown"])
def test_the_affine_that_counts_is_simpleitks(sform, qform, unit, tmp_path):
    path = tmp_path / "in.nii.gz"
    image = nibabel.Nifti1Image(phantom().astype(np.int16) - 20, None)
    image.header.set_zooms(SPACING)
    image.header.set_xyzt_units(unit)
    moved = oblique_affine()
    moved[:3, 3] += 50
    image.header.set_sform(moved, code=sform)
    image.header.set_qform(oblique_affine(), code=qform)
    nibabel.save(image, path)
    (array, geometry), (theirs, their_geometry) = SITK.load(path), by_simpleitk(path)
    np.testing.assert_array_equal(array, theirs)
    size = max(their_geometry.spacing)
    assert geometry.corner_distance_mm(their_geometry) < 1e-5 * size
    np.testing.assert_allclose(geometry.spacing, their_geometry.spacing, rtol=1e-6)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["u1", "i1", "i2", "u2", "i4", "u4", "f4", "f8"]),
    shape=st.sampled_from([(5, 4), (5, 4, 3), (5, 4, 1), (5, 1, 3), (5, 4, 3, 1), (5, 4, 3, 2), (5, 4, 1, 2)]),
    affine=st.sampled_from(AFFINES),
    scaling=st.sampled_from([(1, 0), (0.25, 3), (1, -1024), (-2, 0)]),
    endianness=st.sampled_from("<>"),
    compressed=st.booleans(),
)
def test_voxels_and_grid_are_simpleitks(kind, shape, affine, scaling, endianness, compressed, tmp_path):
    stored = (np.arange(np.prod(shape)) % 100).astype(kind).reshape(shape)
    header = nibabel.Nifti1Header(endianness=endianness)
    header.set_data_dtype(kind)
    header.set_data_shape(shape)
    header.set_sform(affine, code=1)
    header.set_qform(affine, code=1)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    header["scl_slope"], header["scl_inter"] = scaling
    content = header.binaryblock + bytes(4) + stored.astype(endianness + kind).tobytes(order="F")
    path = tmp_path / ("in.nii.gz" if compressed else "in.nii")
    for old in tmp_path.iterdir():
        old.unlink()
    path.write_bytes(gzip.compress(content, 1) if compressed else content)
    if (
        len(shape) == 2 and affine[2, :2].any()
    ):  # a plane that leaves the file's plane: SimpleITK cuts or refuses its axes
        return
    (array, geometry), (theirs, their_geometry) = SITK.load(path), by_simpleitk(path)
    assert array.shape == theirs.shape and geometry.planar == their_geometry.planar
    np.testing.assert_allclose(array.astype(np.float32), theirs.astype(np.float32), rtol=1e-6, atol=1e-6)
    assert geometry.corner_distance_mm(their_geometry) < 1e-4
    np.testing.assert_allclose(geometry.spacing, their_geometry.spacing, rtol=1e-6)


def patched(path, fields, *, sform=1, qform=1, affine=None):
    """Write a file and then put raw numbers into its header."""
    save(
        path,
        (phantom().astype(np.int16) - 20),
        oblique_affine() if affine is None else affine,
        sform=sform,
        qform=qform,
    )
    header = nibabel.Nifti1Header(path.read_bytes()[:348], check=False)
    for name, value in fields.items():
        name, _, index = name.partition("/")
        if index:
            header[name][int(index)] = value
        else:
            header[name] = value
    path.write_bytes(header.binaryblock + path.read_bytes()[348:])
    return path


TURN = {"quatern_b": 0.70711, "quatern_c": 0.70711, "quatern_d": 0.0}  # a little more than 1 together
FIELDS = {
    "no qfac": {"pixdim/0": 0.0},
    "half a qfac": {"pixdim/0": 0.5},
    "qfac that is no number": {"pixdim/0": np.nan},
    "negative qfac": {"pixdim/0": -1.0},
    "rounded quaternion": TURN,
    "rounded quaternion, turned over": {**TURN, "pixdim/0": -1.0},
    "negative width": {"pixdim/1": -0.7},
    "negative thickness": {"pixdim/3": -3.0},
    "negative qform code": {"qform_code": -1},
    "negative sform code": {"sform_code": -1},
    "empty sform": {"srow_x": 0.0},
    "intercept without slope": {"scl_slope": 0.0, "scl_inter": 5.0},
    "tiny slope": {"scl_slope": 1e-20, "scl_inter": 5.0},
    "slope that is no number": {"scl_slope": np.nan, "scl_inter": 5.0},
}


@pytest.mark.parametrize("codes", [(1, 1), (0, 1), (1, 0), (2, 1), (0, 0)], ids=str)
@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
def test_odd_headers_are_read_as_simpleitk_reads_them(codes, fields, tmp_path):
    affine = oriented_affine((1, 0, 2), (1, -1, 1))
    path = patched(tmp_path / "in.nii", fields, sform=codes[0], qform=codes[1], affine=affine)
    try:
        theirs, their_geometry = by_simpleitk(path)
    except RuntimeError:
        return  # what SimpleITK refuses is ours to decide
    if not np.isfinite(np.ravel(their_geometry.direction)).all() or fields == FIELDS["empty sform"] and codes == (1, 0):
        with pytest.raises(ImageFileError, match="in.nii"):
            SITK.load(path)
        return
    array, geometry = SITK.load(path)
    np.testing.assert_array_equal(array, theirs)
    assert geometry.corner_distance_mm(their_geometry) < 1e-3
    np.testing.assert_allclose(geometry.spacing, their_geometry.spacing, rtol=1e-6)


def test_every_data_type_is_read_or_refused_by_name(tmp_path):
    for code in (*range(300), 512, 768, 1024, 1280, 1536, 1792, 2048, 2304, -1):
        try:
            SITK.load(patched(tmp_path / "in.nii", {"datatype": code}))
        except ImageFileError as error:
            assert "in.nii" in str(error)


def test_a_width_of_nothing_is_refused(tmp_path):
    with pytest.raises(ImageFileError, match="spacing .*expected positive numbers"):
        SITK.load(patched(tmp_path / "in.nii", {"pixdim/3": 0.0}))


def test_scaled_16_bit_integers_become_float32(tmp_path):
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    stored = np.zeros((64, 64, 32), np.int16)
    header.set_data_shape(stored.shape)
    header["vox_offset"], header["magic"], header["scl_slope"], header["scl_inter"] = 352, b"n+1", 0.5, 3
    (tmp_path / "in.nii").write_bytes(header.binaryblock + bytes(4) + stored.tobytes())
    array, _ = SITK.load(tmp_path / "in.nii")
    assert array.dtype == np.float32 and (array == 3).all()


@BOTH
@pytest.mark.parametrize("kind", ["NIfTI-2", "big-endian"])
def test_other_forms_of_nifti_are_read(reader, kind, tmp_path):
    values = phantom().astype(np.float32)
    if kind == "NIfTI-2":
        image = nibabel.Nifti2Image(values, oblique_affine())
    else:
        image = nibabel.Nifti1Image(values, oblique_affine(), nibabel.Nifti1Header(endianness=">"))
    nibabel.save(image, tmp_path / "in.nii.gz")
    volume = reader.read_image([tmp_path / "in.nii.gz"])
    np.testing.assert_array_equal(volume.array[0], phantom().T)
    np.testing.assert_allclose(volume.geometry.spacing, SPACING[::-1], rtol=1e-6)


@BOTH
def test_two_dimensional_nifti_stays_two_dimensional(reader, tmp_path):
    affine = oriented_affine((0, 1, 2), (-1, 1, 1))
    source = save(tmp_path / "in.nii.gz", phantom()[:, :, 0], affine)
    volume = reader.read_image([source])
    assert volume.array.shape == (1, 1, 4, 5)
    assert volume.geometry.planar
    np.testing.assert_allclose(volume.geometry.spacing, (1.0, 1.1, 0.7), rtol=1e-6)
    reader.write_segmentation(volume.array[0].astype(np.uint8), volume.geometry, tmp_path / "out.nii.gz")
    written = nibabel.load(tmp_path / "out.nii.gz")
    assert written.shape == (5, 4)
    np.testing.assert_allclose(written.affine[:2, [0, 1, 3]], affine[:2, [0, 1, 3]], atol=1e-5)
    other = NIBABEL if reader is SITK else SITK
    assert other.read_image([source]).geometry.voxels_apart(volume.geometry) < 1e-3


@BOTH
def test_one_slice_of_a_3d_file_is_not_planar(reader, tmp_path):
    geometry = reader.read_image([save(tmp_path / "in.nii.gz", phantom()[:, :, :1], np.diag([1, 1, 5, 1.0]))]).geometry
    assert geometry.shape == (1, 4, 5)
    assert not geometry.planar
    assert geometry.spacing[0] == 5


@BOTH
def test_fourth_axis_of_a_nifti_holds_channels(reader, tmp_path):
    array = np.stack([phantom(), phantom() + 100], axis=-1)
    volume = reader.read_image([save(tmp_path / "in.nii.gz", array, oblique_affine())])
    np.testing.assert_array_equal(volume.array, array.T)
    with pytest.raises(ImageFileError, match="2 channels, expected one"):
        reader.read_label(tmp_path / "in.nii.gz")


@BOTH
def test_rgb_nifti_gives_three_channels(reader, tmp_path):
    colors = np.random.default_rng(0).integers(0, 255, (5, 4, 3, 3), dtype=np.uint8)
    packed = colors.view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    nibabel.save(nibabel.Nifti1Image(packed, np.eye(4)), tmp_path / "in.nii.gz")
    np.testing.assert_array_equal(reader.read_image([tmp_path / "in.nii.gz"]).array, colors.transpose(3, 2, 1, 0))


@BOTH
@pytest.mark.parametrize("keep", [0.3, 0.9, -8])
def test_truncated_gzip_is_refused(reader, keep, tmp_path):
    path = save(
        tmp_path / "in.nii.gz", np.random.default_rng(0).integers(0, 99, (20, 20, 20), dtype=np.int16), np.eye(4)
    )
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep) if keep > 0 else keep])
    with pytest.raises(ImageFileError, match=r"in\.nii\.gz is damaged"):
        reader.read_image([path])


@BOTH
@pytest.mark.parametrize("place", [0.5, 0.9, -6])  # the last is in the checksum itself
def test_flipped_bit_in_gzip_is_refused(reader, place, tmp_path):
    path = save(
        tmp_path / "in.nii.gz", np.random.default_rng(0).integers(0, 99, (20, 20, 20), dtype=np.int16), np.eye(4)
    )
    content = bytearray(path.read_bytes())
    content[int(len(content) * place) if place > 0 else place] ^= 4
    path.write_bytes(content)
    with pytest.raises(ImageFileError, match=r"in\.nii\.gz is damaged"):
        reader.read_image([path])


@BOTH
def test_truncated_plain_nifti_is_refused(reader, tmp_path):
    path = save(tmp_path / "in.nii", phantom(), np.eye(4))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ImageFileError, match="promises 412 bytes, 411 are there"):
        reader.read_image([path])


@BOTH
def test_plain_nifti_named_gz_is_refused_with_the_way_out(reader, tmp_path):
    path = save(tmp_path / "in.nii", phantom(), np.eye(4)).rename(tmp_path / "in.nii.gz")
    with pytest.raises(ImageFileError, match="is not compressed, although its name says so; compress it with gzip"):
        reader.read_image([path])


@BOTH
def test_a_placeholder_named_gz_is_refused_as_what_it_is(reader, tmp_path):
    path = tmp_path / "in.nii.gz"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ImageFileError, match="is no gzip file, it begins with b'vers'; it may be a placeholder"):
        reader.read_image([path])


@BOTH
def test_header_that_promises_terabytes_is_refused_before_memory_is_taken(reader, tmp_path):
    path = save(tmp_path / "in.nii", phantom(), np.eye(4))
    content = bytearray(path.read_bytes())
    content[42:48] = np.array([32767] * 3, dtype="<i2").tobytes()
    path.write_bytes(content)
    with pytest.raises(ImageFileError, match="truncated"):
        reader.read_image([path])


@BOTH
@pytest.mark.parametrize("value", [np.nan, -1, 1e30, 1e6])
def test_data_that_begin_nowhere_are_refused(reader, value, tmp_path):
    for name in ("in.nii", "in.nii.gz"):
        path = tmp_path / name
        content = bytearray(save(tmp_path / "whole.nii", phantom(), np.eye(4)).read_bytes())
        content[108:112] = np.float32(value).tobytes()
        path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
        with pytest.raises(ImageFileError, match="vox_offset|truncated"):
            reader.read_image([path])


@BOTH
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(reader, value, tmp_path):
    array = phantom().astype(np.float32)
    array[1, 2, 1] = value
    for name in ("in.nii", "in.nii.gz"):  # SimpleITK alone would read 0
        with pytest.raises(ImageFileError, match="1 values that are NaN or infinite"):
            reader.read_image([save(tmp_path / name, array, np.eye(4))])


@BOTH
def test_missing_file_is_named(reader, tmp_path):
    with pytest.raises(ImageFileError, match="absent.nii.gz does not exist"):
        reader.read_image([tmp_path / "absent.nii.gz"])


@BOTH
def test_text_under_the_name_of_an_image_is_refused(reader, tmp_path):
    (tmp_path / "in.nii").write_text("not an image")
    with pytest.raises(ImageFileError, match="does not begin with a NIfTI header"):
        reader.read_image([tmp_path / "in.nii"])


@BOTH
def test_sheared_axes_are_made_orthogonal_with_a_warning(reader, tmp_path, caplog):
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    affine[0, 1] = 3 * np.tan(np.radians(4))  # y leans 4 degrees towards x
    image = nibabel.Nifti1Image(phantom(), affine)
    image.header.set_zooms((2, 3, 4))
    image.set_sform(affine, code=2)
    image.set_qform(None, code=0)
    nibabel.save(image, tmp_path / "in.nii.gz")
    with caplog.at_level(logging.WARNING):
        geometry = reader.read_image([tmp_path / "in.nii.gz"]).geometry
    assert "turned by up to 2 degrees" in caplog.text  # both axes meet half way
    direction = np.array(geometry.direction)
    np.testing.assert_allclose(direction @ direction.T, np.eye(3), atol=1e-9)


@BOTH
def test_sheared_sform_gives_way_to_a_sound_qform(reader, tmp_path):
    image = nibabel.Nifti1Image(phantom(), None)
    image.header.set_zooms(SPACING)
    sheared = oblique_affine()
    sheared[0, 1] += 0.3
    image.header.set_sform(sheared, code=1)
    image.header.set_qform(oblique_affine(), code=1)
    nibabel.save(image, tmp_path / "in.nii.gz")
    volume = reader.read_image([tmp_path / "in.nii.gz"])
    reader.write_segmentation(volume.array[0].astype(np.uint8), volume.geometry, tmp_path / "out.nii.gz")
    written = nibabel.load(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(written.get_sform(), image.get_sform())
    np.testing.assert_array_equal(written.get_qform(), image.get_qform())


def test_a_segmentation_keeps_the_header_of_its_image(tmp_path):
    """Every byte but those of number type, shape, range and intent; read on one place by nibabel and by ITK."""
    image = nibabel.Nifti1Image(np.zeros((5, 4, 3, 2), ">f4"), None, nibabel.Nifti1Header(endianness=">"))
    header = image.header
    header.set_xyzt_units("micron", "sec")
    header.set_sform(oriented_affine((1, 0, 2), (1, -1, 1)), code=2)
    header.set_qform(oblique_affine(), code=3)
    header["descrip"], header["aux_file"], header["intent_name"] = b"of a scanner", b"none", b"f test"
    header["pixdim"][1:4] *= -1, 1, 1
    header.set_slope_inter(2, 5)
    header["cal_max"], header["vox_offset"] = 900, 352
    path = tmp_path / "in.nii.gz"
    path.write_bytes(gzip.compress(header.binaryblock + bytes(4) + bytes(5 * 4 * 3 * 2 * 4)))
    geometry = SITK.load(path)[1]
    SITK.write_segmentation(phantom().T.astype(np.uint16), geometry, tmp_path / "out.nii.gz")
    raw = gzip.decompress((tmp_path / "out.nii.gz").read_bytes())
    written, before = nibabel.Nifti1Header(raw[:348], check=False), header.as_byteswapped("<")
    changed = {name for name in written if written[name].tobytes() != before[name].tobytes()}
    assert changed == {
        "dim",
        "pixdim",
        "datatype",
        "bitpix",
        "scl_slope",
        "scl_inter",
        "cal_max",
        "intent_name",
        "magic",
        "vox_offset",
    } - {name for name in ("magic", "vox_offset", "pixdim") if written[name].tobytes() == before[name].tobytes()}
    np.testing.assert_array_equal(written["pixdim"][:4], before["pixdim"][:4])
    np.testing.assert_array_equal(written["dim"], [3, 5, 4, 3, 1, 1, 1, 1])
    assert raw[352:] == phantom().T.astype("<u2").tobytes()
    assert SITK.read_label(tmp_path / "out.nii.gz")[1] == geometry


@pytest.mark.parametrize("unit", ["micron", "mm", "meter"])
def test_a_segmentation_comes_back_in_the_unit_of_its_image(unit, tmp_path):
    image = nibabel.Nifti1Image(phantom(), oblique_affine())
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "in.nii")
    geometry = NIBABEL.load(tmp_path / "in.nii")[1]
    np.testing.assert_allclose(
        geometry.spacing, np.array(SPACING[::-1]) * {"micron": 1e-3, "mm": 1, "meter": 1e3}[unit], rtol=1e-6
    )
    NIBABEL.write_segmentation(phantom().T, geometry, tmp_path / "out.nii")
    written = nibabel.load(tmp_path / "out.nii")
    assert written.header.get_xyzt_units()[0] == unit
    np.testing.assert_array_equal(written.affine, nibabel.load(tmp_path / "in.nii").affine)


def test_a_slice_keeps_its_place_and_thickness(tmp_path):
    affine = oriented_affine((0, 1, 2), (-1, 1, 1))
    save(tmp_path / "in.nii.gz", phantom()[:, :, 0], affine)
    geometry = SITK.load(tmp_path / "in.nii.gz")[1]
    SITK.write_segmentation(phantom().T[:1], geometry, tmp_path / "out.nii.gz")
    before, written = (nibabel.load(tmp_path / f"{name}.nii.gz") for name in ("in", "out"))
    np.testing.assert_array_equal(written.affine, before.affine)
    np.testing.assert_array_equal(written.header["pixdim"][:4], before.header["pixdim"][:4])


@BOTH
def test_damaged_headers_are_read_or_refused_by_name(reader, tmp_path):
    path = save(tmp_path / "in.nii", phantom(), oblique_affine())
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(200):
        content = bytearray(whole)
        for place in rng.integers(0, 352, 2):
            content[place] = rng.integers(0, 256)
        path.write_bytes(content)
        try:
            reader.read_image([path])
        except ImageFileError as error:
            assert "in.nii" in str(error)


@BOTH
def test_singular_affine_is_refused(reader, tmp_path):
    path = save(tmp_path / "in.nii", phantom(), np.eye(4), qform=0)
    content = bytearray(path.read_bytes())
    content[296:312] = content[280:296]  # srow_y = srow_x
    path.write_bytes(content)
    with pytest.raises(ImageFileError, match="in.nii"):
        reader.read_image([path])


def test_plain_file_beside_a_compressed_one_is_not_taken_for_it(tmp_path):
    save(tmp_path / "in.nii.gz", phantom(), oblique_affine())
    save(tmp_path / "in.nii", np.zeros_like(phantom()), oblique_affine())
    np.testing.assert_array_equal(SITK.read_image([tmp_path / "in.nii.gz"]).array[0], phantom().T)
    assert SITK.read_image([tmp_path / "in.nii"]).array.max() == 0


@BOTH
def test_channel_files_stack_in_order(reader, tmp_path):
    paths = [save(tmp_path / f"case_000{i}.nii.gz", phantom() + i, oblique_affine()) for i in range(2)]
    volume = reader.read_image(paths)
    np.testing.assert_array_equal(volume.array, np.stack([phantom().T, phantom().T + 1]))


@BOTH
def test_channel_files_of_unequal_shape_or_spacing_are_refused(reader, tmp_path):
    first = save(tmp_path / "case_0000.nii.gz", phantom(), np.eye(4))
    shorter = save(tmp_path / "case_0001.nii.gz", phantom()[:4], np.eye(4))
    wider = save(tmp_path / "case_0002.nii.gz", phantom(), np.diag([1, 1, 2, 1.0]))
    with pytest.raises(DatasetError, match=r"case_0000.*\(3, 4, 5\).*case_0001.*\(3, 4, 4\)"):
        reader.read_image([first, shorter])
    with pytest.raises(DatasetError, match=r"case_0000.*\(1\.0, 1\.0, 1\.0\) mm.*case_0002.*\(2\.0, 1\.0, 1\.0\) mm"):
        reader.read_image([first, wider])


@BOTH
def test_channel_files_with_other_origins_are_reported_and_read(reader, tmp_path, caplog):
    moved = np.eye(4)
    moved[0, 3] = 2.5
    paths = [
        save(tmp_path / "case_0000.nii.gz", phantom(), np.eye(4)),
        save(tmp_path / "case_0001.nii.gz", phantom(), moved),
    ]
    with caplog.at_level(logging.WARNING):
        assert len(reader.read_image(paths).array) == 2
    assert "2.5 mm" in caplog.text


@BOTH
def test_label_values_come_back_as_integers(reader, tmp_path):
    labels = phantom().astype(np.float32) + np.float32(4e-4)
    array, geometry = reader.read_label(save(tmp_path / "in.nii.gz", labels, np.eye(4)))
    assert array.dtype == np.int16
    assert geometry.shape == (3, 4, 5)
    np.testing.assert_array_equal(array, phantom().T)
    assert (
        reader.read_label(save(tmp_path / "big.nii.gz", phantom().astype(np.int32) * 1000, np.eye(4)))[0].dtype
        == np.int32
    )


@BOTH
def test_fractional_labels_are_refused(reader, tmp_path):
    path = save(tmp_path / "in.nii.gz", phantom().astype(np.float32) + np.float32(0.25), np.eye(4))
    with pytest.raises(ImageFileError, match=r"in\.nii\.gz holds .*25, expected whole numbers"):
        reader.read_label(path)


@BOTH
def test_segmentation_must_fit_grid_and_type(reader, tmp_path):
    geometry = Geometry(shape=(3, 4, 5), spacing=(1, 1, 1))
    with pytest.raises(ShapeError, match="shape"):
        reader.write_segmentation(np.zeros((3, 4, 4), np.uint8), geometry, tmp_path / "out.nii.gz")
    with pytest.raises(ImageFileError, match="uint8 or uint16, got int64"):
        reader.write_segmentation(np.zeros((3, 4, 5), np.int64), geometry, tmp_path / "out.nii.gz")
    assert list(tmp_path.iterdir()) == []


@BOTH
def test_equal_segmentations_give_equal_files(reader, tmp_path):
    geometry = Geometry(shape=(3, 4, 5), spacing=(1, 1, 1))
    for name in ("a", "b"):
        reader.write_segmentation(phantom().T.astype(np.uint16), geometry, tmp_path / f"{name}.nii.gz")
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nii.gz", "b.nii.gz"]


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".nii", ".gipl"])
def test_other_formats_come_back(ending, tmp_path):
    turned = ending != ".gipl"
    geometry = Geometry(
        shape=(3, 4, 5),
        spacing=(3.0, 1.5, 0.5),
        origin=(1.0, -2.0, 3.0),
        **({"direction": ((0.0, -1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0))} if turned else {}),
    )
    path = tmp_path / f"out{ending}"
    SITK.write_segmentation(phantom().T, geometry, path)
    array, read = SITK.read_label(path)
    np.testing.assert_array_equal(array, phantom().T)
    assert read.voxels_apart(geometry) < 1e-4


def test_gipl_refuses_a_turned_grid(tmp_path):
    geometry = Geometry(
        shape=(3, 4, 5), spacing=(1, 1, 1), direction=((0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0))
    )
    with pytest.raises(ImageFileError, match="GIPL files hold no direction"):
        SITK.write_segmentation(phantom().T, geometry, tmp_path / "out.gipl")


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".gipl"])
@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_damage_in_other_formats_is_refused(ending, damage, tmp_path):
    if (ending, damage) == (".gipl", "flip"):
        pytest.skip("GIPL is not compressed and has no checksum")
    path = tmp_path / f"in{ending}"
    SITK.write_segmentation(
        np.random.default_rng(0).integers(0, 99, (20, 20, 20), dtype=np.uint8),
        Geometry(shape=(20, 20, 20), spacing=(1, 1, 1)),
        path,
    )
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 4
    path.write_bytes(content if damage == "flip" else content[: len(content) // 2])
    with pytest.raises(ImageFileError, match=f"in{ending}"):
        SITK.read_image([path])


def test_values_that_are_not_finite_are_refused_in_mha(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(np.full((2, 3, 4), np.nan, np.float32)), tmp_path / "in.mha")
    with pytest.raises(ImageFileError, match="24 values"):
        SITK.read_image([tmp_path / "in.mha"])


def test_components_of_an_mha_are_channels_and_2d_stays_2d(tmp_path):
    array = np.random.default_rng(0).random((4, 5, 6, 2), dtype=np.float32)
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=True), tmp_path / "vector.mha")
    np.testing.assert_array_equal(SITK.read_image([tmp_path / "vector.mha"]).array, np.moveaxis(array, -1, 0))
    flat = sitk.GetImageFromArray(phantom()[0])
    flat.SetSpacing((0.5, 0.7))
    flat.SetOrigin((5, 6))
    flat.SetDirection((0, 1, -1, 0))
    sitk.WriteImage(flat, tmp_path / "flat.mha")
    label, geometry = SITK.read_label(tmp_path / "flat.mha")
    assert geometry.planar
    SITK.write_segmentation(label.astype(np.uint8), geometry, tmp_path / "out.mha")
    written = sitk.ReadImage(tmp_path / "out.mha")
    assert (written.GetSize(), written.GetSpacing(), written.GetOrigin(), written.GetDirection()) == (
        flat.GetSize(),
        flat.GetSpacing(),
        flat.GetOrigin(),
        flat.GetDirection(),
    )


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32, np.float64])
def test_a_compressed_mha_whose_header_promises_more_is_refused(kind, tmp_path):
    path = tmp_path / "in.mha"
    sitk.WriteImage(
        sitk.GetImageFromArray(np.arange(7 * 5 * 6).reshape(7, 5, 6).astype(kind)), path, useCompression=True
    )
    assert SITK.read_image([path]).array.shape == (1, 7, 5, 6)
    path.write_bytes(path.read_bytes().replace(b"DimSize = 6 5 7", b"DimSize = 6 5 9"))
    with pytest.raises(ImageFileError, match="truncated: its header promises"):
        SITK.read_image([path])


def test_no_flipped_bit_of_a_compressed_nrrd_passes(tmp_path):
    path = tmp_path / "in.nrrd"
    array = np.random.default_rng(0).integers(0, 9, (5, 20, 20)).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(array), path, useCompression=True)
    content = path.read_bytes()
    np.testing.assert_array_equal(SITK.read_image([path]).array[0], array)
    start = content.index(b"\n\n") + 12  # behind the gzip header, whose date and name mean nothing
    for place in np.linspace(start, len(content) - 1, 60).astype(int):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(place) % 8
        path.write_bytes(flipped)
        with pytest.raises(ImageFileError):
            SITK.read_image([path])


def test_a_header_without_numbers_is_refused(tmp_path):
    path = tmp_path / "in.nrrd"
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((2, 3, 4), np.int16)), path, useCompression=True)
    path.write_bytes(path.read_bytes().replace(b"sizes: 4 3 2", b"sizes: 4 x 2"))
    with pytest.raises(ImageFileError, match="header that cannot be read"):
        SITK.read_image([path])


def test_voxels_as_large_as_float32_holds_are_named_since_they_are_padding(tmp_path, caplog):
    array = np.random.default_rng(0).normal(100, 20, (4, 5, 6)).astype(np.float32)
    for name, factor in (("plain", 1), ("other_units", 1e30), ("padded", 1)):
        values = array * np.float32(factor)
        values[0, 0, 0] = np.finfo(np.float32).min if name == "padded" else values[0, 0, 0]
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / f"{name}.nii.gz")
        READERS[1].read_image([tmp_path / f"{name}.nii.gz"])
    assert [record.getMessage().split()[0] for record in caplog.records] == [str(tmp_path / "padded.nii.gz")]
