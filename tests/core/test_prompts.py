"""Files of prompts: coordinates, refusals, labels of folders."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk

from samunet.core.geometry import Geometry
from samunet.core.labels import parse_labels
from samunet.core.prompts import (
    PROMPTS,
    CasePrompts,
    PromptFile,
    StructurePrompts,
    merge_prompts,
    prompts_behind,
    read_prompts,
    refuse_mixed,
    write_prompts,
)
from samunet.errors import ConfigError
from samunet.imageio import reader_for

LABELS = parse_labels({"background": 0, "liver": 1, "tumor": 2})


def written(folder, **content):
    path = folder / "p.json"
    path.write_text(json.dumps({"cases": content}))
    return path


def test_positions_in_mm_are_those_of_itk_and_nifti(tmp_path):
    image = sitk.GetImageFromArray(np.zeros((5, 7, 9), np.float32))
    image.SetSpacing((0.7, 1.1, 2.5))
    image.SetOrigin((-12.0, 30.0, 4.0))
    turn = np.deg2rad(20)
    image.SetDirection((np.cos(turn), -np.sin(turn), 0, np.sin(turn), np.cos(turn), 0, 0, 0, 1))
    sitk.WriteImage(image, str(tmp_path / "a.nii.gz"))
    geometry = reader_for(".nii.gz").read_image([tmp_path / "a.nii.gz"]).geometry
    index = (3.25, 5.5, 2.0)
    lps = image.TransformContinuousIndexToPhysicalPoint(index)
    ras = (-lps[0], -lps[1], lps[2])
    for name, point in (("voxel", index), ("lps", lps), ("ras", ras)):
        found = CasePrompts(structures={}, coordinates=name).indices("organ", (point,), geometry)
        assert np.allclose(found, [index[::-1]], atol=1e-4), name


def test_a_point_of_a_2d_image_needs_no_z_and_one_outside_is_refused():
    geometry = Geometry(shape=(1, 10, 20), spacing=(1.0, 0.5, 0.5), planar=True)
    prompts = CasePrompts(structures={})
    assert prompts.indices("organ", ((3.0, 4.0),), geometry) == ((0.0, 4.0, 3.0),)
    for point in ((20.0, 4.0), (3.0, -0.6), (3.0, 4.0, 1.0)):
        with pytest.raises(ConfigError, match="outside the image of 20 x 10 x 1 voxels"):
            prompts.indices("organ", (point,), geometry)
    with pytest.raises(ConfigError, match="three numbers"):
        prompts.indices("organ", ((1.0,),), geometry)


def test_a_file_is_read_as_it_was_written(tmp_path):
    box = StructurePrompts(
        points=((1.0, 2.0, 3.0),), background_points=((4.0, 5.0, 6.0),), box=((0.0, 0.0, 0.0), (2.0, 2.0, 2.0))
    )
    prompts = PromptFile(cases={"a": CasePrompts(structures={"liver": box}, coordinates="ras")})
    write_prompts(tmp_path / "p.json", prompts)
    assert read_prompts(tmp_path / "p.json") == prompts
    assert prompts.of("a", LABELS) == prompts.cases["a"]


@pytest.mark.parametrize(
    ("structures", "coordinates", "words"),
    [
        ({"liver": {"point": [[1, 2, 3]]}}, "voxel", "unknown key 'point'. Did you mean 'points'"),
        ({"liver": {"points": [1, 2, 3]}}, "voxel", "expected a list"),
        ({"liver": {"box": [[1, 2, 3]]}}, "voxel", "a list of 2 values"),
        ({"liver": {}}, "mm", "voxel, lps, ras"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, structures, coordinates, words):
    with pytest.raises(ConfigError, match=words):
        read_prompts(written(tmp_path, a={"structures": structures, "coordinates": coordinates}))


def test_cases_and_structures_that_do_not_exist_are_named(tmp_path):
    prompts = read_prompts(written(tmp_path, case_1={"structures": {"livre": {}}}))
    with pytest.raises(ConfigError, match="no case 'case_2'. Did you mean 'case_1'"):
        prompts.of("case_2", LABELS)
    with pytest.raises(ConfigError, match="'livre', which is no class or region of the model. Did you mean 'liver'"):
        prompts.of("case_1", LABELS)


def test_folders_with_and_without_prompts_do_not_mix(tmp_path):
    folders = {name: tmp_path / name for name in "abc"}
    nothing = CasePrompts(structures={})
    one, other = PromptFile(cases={"x": nothing}, origin="one"), PromptFile(cases={"y": nothing}, origin="other")
    for name, prompts in (("a", one), ("b", other)):
        folders[name].mkdir()
        write_prompts(folders[name] / PROMPTS, prompts)
    folders["c"].mkdir()
    origins = {name: prompts_behind(folder) for name, folder in folders.items()}
    assert origins == {"a": "one", "b": "other", "c": None}
    refuse_mixed({name: origins[name] for name in "ab"})
    refuse_mixed({"c": None})
    with pytest.raises(ConfigError, match="a was predicted with prompts .* and c without"):
        refuse_mixed(origins)
    merged = merge_prompts([one, other, one])
    assert set(merged.cases) == {"x", "y"} and merged.origin == "one; other"
