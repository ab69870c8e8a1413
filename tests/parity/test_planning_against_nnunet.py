"""Fingerprint, topology, plan, splits and preprocessed cases are nnU-Net's (nnunetv2 2.8.1 as the oracle).

nnU-Net's own classes run here, in this process: its pools are replaced by direct calls.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing.dummy
import types
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from samunet import pipeline
from samunet.core.plan import Configuration, Plan, Preference, Topology
from samunet.core.preprocessed import OUTSIDE_NONZERO, PreprocessedCase
from samunet.core.workspace import Workspace
from samunet.imageio.case import read_case
from samunet.planning import extract
from samunet.planning.planners.default import PlannedMethod, Target
from samunet.planning.planners.default import plan as make_plan
from samunet.planning.splits import make_splits, split_for_fold
from samunet.planning.topology import divisors, topology_for
from samunet.preprocessing.forward import preprocess
from samunet.preprocessing.storage import chunk_and_block, open_array, sample_locations

pytest.importorskip("nnunetv2")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # imports of nnU-Net's dependencies warn about their own deprecations
    from nnunetv2.experiment_planning.dataset_fingerprint import fingerprint_extractor
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
    from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props
    from nnunetv2.preprocessing.preprocessors import default_preprocessor
    from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params
    from nnunetv2.utilities import utils
    from nnunetv2.utilities.crossval_split import generate_crossval_split
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

SAMPLES = 30_000  # instead of 1e8, which takes seconds, in both programs
SPACINGS = [0.4, 0.5, 0.7, 0.99, 1.0, 1.2, 1.99, 2.0, 2.5, 3.0, 5.0, 8.0]
NAMES = {
    "zscore": "ZScoreNormalization",
    "ct": "CTNormalization",
    "none": "NoNormalization",
    "rescale_to_0_1": "RescaleTo01Normalization",
    "rgb_to_0_1": "RGBTo01Normalization",
}
fast = settings(max_examples=150, deadline=None, derandomize=True)


class Pool:
    """nnU-Net's spawn pool without processes."""

    _pool = ()

    def __init__(self, processes: int) -> None:
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        pass

    def starmap_async(self, function, arguments):
        results = [function(*given) for given in arguments]
        return types.SimpleNamespace(ready=lambda: True, get=lambda: results)


@contextlib.contextmanager
def in_this_process(workspace: Workspace):
    """nnU-Net's environment and pools, without its progress bars and warnings."""
    direct = types.SimpleNamespace(get_context=lambda _: types.SimpleNamespace(Pool=Pool))
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for part in ("raw", "preprocessed", "results"):
            patch.setenv(f"nnUNet_{part}", str(getattr(workspace, part)))
        patch.setattr(fingerprint_extractor, "multiprocessing", direct)
        patch.setattr(default_preprocessor, "multiprocessing", direct)
        for module in (fingerprint_extractor, default_preprocessor):
            patch.setattr(module, "sleep", lambda _: None)
        patch.setattr(utils, "Pool", multiprocessing.dummy.Pool)
        yield


def run_nnunet(workspace: Workspace, dataset: int, configurations: tuple[str, ...], **planner_options) -> dict:
    """Measure, plan and preprocess with nnU-Net; returns its plan."""
    with in_this_process(workspace):
        extractor = fingerprint_extractor.DatasetFingerprintExtractor(dataset, 1)
        extractor.num_foreground_voxels_for_intensitystats = SAMPLES
        extractor.show_progress_bar = False
        extractor.run(overwrite_existing=True)
        plans = ExperimentPlanner(dataset, **planner_options).plan_experiment()
        preprocessor = default_preprocessor.DefaultPreprocessor(verbose=False)
        preprocessor.show_progress_bar = False
        for configuration in configurations:
            preprocessor.run(dataset, configuration, "nnUNetPlans", 1)
    return plans


def head(rng, shape, spacing, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """An ellipsoid on a background of zeros with two labels well inside it; (C, D, H, W) and (D, H, W)."""
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    center = rng.uniform(-0.1, 0.1, 3)[:, None, None, None]
    distance = np.sqrt(((grid - center) ** 2).sum(0))
    label = np.zeros(shape, np.uint8)
    label[distance < 0.45] = 1
    label[(np.abs(grid - center - 0.05) < [[[[0.3]]], [[[0.15]]], [[[0.2]]]]).all(0)] = 2
    noise = np.stack([gaussian_filter(rng.normal(size=shape), 1) for _ in range(channels)])
    image = 100 + 400 * noise + 50 * label * (1 + np.arange(channels)[:, None, None, None])
    image[:, distance > 0.75] = 0
    return image.astype(np.float32), label


def write_heads(
    workspace: Workspace, name: str, axis: int, channels: dict[str, str], *, cases: int = 6, **description
) -> Path:
    """Raw cases with few thick slices along one array axis, and a spacing of its own each."""
    folder = workspace.raw / name
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for index in range(cases):
        rng = np.random.default_rng([axis, index])
        shape, spacing = (
            [int(rng.integers(44, 52)), int(rng.integers(36, 44))],
            [rng.uniform(0.8, 1.0), rng.uniform(0.9, 1.2)],
        )
        shape.insert(axis, int(rng.integers(9, 12)))
        spacing.insert(axis, rng.uniform(3.8, 5.0))
        image, label = head(rng, shape, spacing, len(channels))
        for path, array in [(f"imagesTr/c{index}_{c:04d}.nii.gz", part) for c, part in enumerate(image)] + [
            (f"labelsTr/c{index}.nii.gz", label)
        ]:
            file = sitk.GetImageFromArray(array)
            file.SetSpacing([float(value) for value in spacing[::-1]])
            sitk.WriteImage(file, str(folder / path))
    raw = {
        "channel_names": channels,
        "labels": {"background": 0, "a": 1, "b": 2},
        "numTraining": cases,
        "file_ending": ".nii.gz",
        **description,
    }
    (folder / "dataset.json").write_text(json.dumps(raw))
    return folder


@dataclass(frozen=True)
class Compared:
    """One dataset, planned by both programs."""

    workspace: Workspace
    theirs: dict
    ours: Plan
    dataset: pipeline.RawDataset

    def preprocessed(self, identifier: str, name: str) -> tuple[PreprocessedCase, Plan, Configuration]:
        """Preprocess a case with our code at nnU-Net's spacing."""
        configuration = self.ours.configurations["3d_adapter" if name == "3d_fullres" else "2d_adapter"]
        case = next(case for case in self.dataset.cases if case.identifier == identifier)
        return (
            preprocess(*read_case(case, self.dataset.spec, self.dataset.reader), self.ours, configuration),
            self.ours,
            configuration,
        )

    def nnunets(self, identifier: str, name: str):
        """Preprocess it with nnU-Net's class: data, seg and properties."""
        with in_this_process(self.workspace):
            manager = PlansManager(self.theirs)
            case = next(case for case in self.dataset.cases if case.identifier == identifier)
            return default_preprocessor.DefaultPreprocessor(verbose=False).run_case(
                [str(path) for path in case.images],
                str(case.label),
                manager,
                manager.get_configuration(name),
                self.dataset.spec.raw,
            )


def our_plan(dataset: pipeline.RawDataset) -> Plan:
    methods = {
        f"{n}d_adapter": PlannedMethod(
            variant="sam_unet",
            dimensions=n,
            preferred=lambda *_: (Preference(scale=2.0, reason=""),),
            cost=lambda *_: 1.0,
        )
        for n in (2, 3)
    }
    aim = Target(backbone="vit_nano", backbone_reason="", plans_name="samunetPlans", reader=dataset.reader.name)
    fingerprint = extract.extract_fingerprint(dataset.spec, dataset.cases, dataset.reader, threads=1, quiet=True)
    return make_plan(fingerprint, dataset.spec, aim, methods)


def folders(root: Path) -> Workspace:
    for part in ("raw", "preprocessed", "results"):
        (root / part).mkdir()
    return Workspace(
        raw_folder=root / "raw", preprocessed_folder=root / "preprocessed", results_folder=root / "results"
    )


@pytest.fixture(scope="module", params=[0, 1, 2], ids=["thick D", "thick H", "thick W"])
def compared(request, tmp_path_factory) -> Compared:
    workspace = folders(tmp_path_factory.mktemp("compared"))
    write_heads(
        workspace,
        f"Dataset00{request.param}_Head",
        request.param,
        {"0": "T1", "1": "CT", "2": "noNorm", "3": "rescale_to_0_1"},
    )
    theirs = run_nnunet(workspace, request.param, ())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extract, "SAMPLES", SAMPLES)
        dataset = pipeline.open_dataset(workspace, request.param)
        return Compared(workspace=workspace, theirs=theirs, ours=our_plan(dataset), dataset=dataset)


@fast
@given(st.tuples(*[st.sampled_from(SPACINGS)] * 3), st.tuples(*[st.integers(2, 300)] * 3))
def test_3d_stages_are_nnunets(spacing, patch):
    _, strides, kernels, padded, divisor = get_pool_and_conv_props(spacing, patch, 4, 999999)
    topology, ours = topology_for(patch, spacing, base_width=32, max_width=320)
    assert (topology.strides, topology.kernels, ours, divisors(topology)) == (
        strides,
        kernels,
        tuple(padded),
        tuple(divisor),
    )
    assert topology.widths == tuple(min(320, 32 * 2**i) for i in range(len(strides)))


@fast
@given(
    st.tuples(*[st.sampled_from(SPACINGS)] * 2),
    st.tuples(*[st.integers(2, 700)] * 2),
    st.sampled_from([0.1, 1.0, 999.0]),
)
def test_2d_stages_are_nnunets(spacing, patch, between):
    _, strides, kernels, padded, _ = get_pool_and_conv_props(spacing, patch, 4, 999999)
    topology, ours = topology_for((1, *patch), (between, *spacing), base_width=32, max_width=512)
    assert [stride[1:] for stride in topology.strides] == list(strides) and [
        kernel[1:] for kernel in topology.kernels
    ] == list(kernels)
    assert ours == (1, *padded) and {part[0] for part in (*topology.strides, *topology.kernels)} == {1}


@pytest.mark.parametrize("count", [5, 6, 12, 23])
def test_splits_are_nnunets(count):
    names = [f"case_{i}" for i in np.random.default_rng(count).permutation(count)]
    theirs = generate_crossval_split(list(np.sort(names)), seed=12345, n_splits=5)
    assert [{"train": list(split.train), "val": list(split.val)} for split in make_splits(names)] == theirs


@fast
@given(
    st.tuples(st.integers(1, 4), *[st.integers(1, 700)] * 3),
    st.one_of(st.tuples(*[st.integers(1, 320)] * 3), st.tuples(*[st.integers(1, 1024)] * 2)),
    st.sampled_from([2, 4]),
)
def test_chunks_and_blocks_are_nnunets(shape, patch, itemsize):
    block, chunk = comp_blosc2_params(shape, patch, itemsize)
    assert chunk_and_block(shape, patch if len(patch) == 3 else (1, *patch), itemsize) == (chunk, block)


def test_chunks_and_blocks_are_those_nnunet_documents():
    assert chunk_and_block((1, 300, 400, 400), (128, 128, 128), 4) == ((1, 96, 128, 128), (1, 32, 32, 32))
    assert chunk_and_block((1, 300, 400, 400), (128, 128, 128), 2) == ((1, 128, 192, 128), (1, 64, 32, 32))
    assert chunk_and_block((1, 40, 512, 512), (1, 512, 512), 4) == ((1, 1, 512, 512), (1, 1, 256, 128))


def test_intensities_are_nnunets(compared):
    theirs = compared.theirs["foreground_intensity_properties_per_channel"]
    for index, channel in enumerate(compared.ours.channels):
        figures = channel.intensities
        ours = [
            figures.mean,
            figures.median,
            figures.std,
            figures.minimum,
            figures.maximum,
            figures.percentile_00_5,
            figures.percentile_99_5,
        ]
        names = ("mean", "median", "std", "min", "max", "percentile_00_5", "percentile_99_5")
        assert ours == pytest.approx([theirs[str(index)][name] for name in names], rel=1e-6)


def test_spacing_transpose_and_median_shape_are_nnunets(compared):
    full, plane = compared.theirs["configurations"]["3d_fullres"], compared.theirs["configurations"]["2d"]
    ours3, ours2 = compared.ours.configurations["3d_adapter"], compared.ours.configurations["2d_adapter"]
    assert list(compared.ours.transpose) == compared.theirs["transpose_forward"] and compared.ours.transpose[0] == int(
        compared.dataset.spec.name[9]
    )
    assert ours3.spacing == pytest.approx(full["spacing"]) and ours2.spacing[1:] == pytest.approx(plane["spacing"])
    assert list(ours3.median_shape) == list(full["median_image_size_in_voxels"])
    assert list(ours2.median_shape[1:]) == list(plane["median_image_size_in_voxels"])
    median = np.median(
        [
            case.geometry.spacing
            for case in (
                read_case(c, compared.dataset.spec, compared.dataset.reader)[0] for c in compared.dataset.cases
            )
        ],
        0,
    )
    assert ours3.spacing[0] < median[compared.ours.transpose[0]], "the rule for few thick slices is not exercised"


def test_a_patch_that_fits_is_nnunets(compared):
    full, plane = compared.theirs["configurations"]["3d_fullres"], compared.theirs["configurations"]["2d"]
    ours3, ours2 = compared.ours.configurations["3d_adapter"], compared.ours.configurations["2d_adapter"]
    assert list(ours3.patch_size) == list(full["patch_size"]) and list(ours2.patch_size[1:]) == list(
        plane["patch_size"]
    )
    arch = full["architecture"]["arch_kwargs"]
    assert ours3.topology == Topology(
        strides=tuple(map(tuple, arch["strides"])),
        kernels=tuple(map(tuple, arch["kernel_sizes"])),
        widths=ours3.topology.widths,
    )


def test_normalization_is_chosen_as_nnunet_chooses(compared):
    full = compared.theirs["configurations"]["3d_fullres"]
    assert [NAMES[channel.scheme] for channel in compared.ours.channels] == full["normalization_schemes"]
    assert (
        [channel.within_mask for channel in compared.ours.channels]
        == full["use_mask_for_norm"]
        == [True, False, False, False]
    )


@pytest.mark.parametrize("configuration", ["3d_fullres", "2d"])
@pytest.mark.parametrize("identifier", ["c0", "c4"])
def test_preprocessed_cases_are_nnunets(compared, identifier, configuration):
    data, seg, properties = compared.nnunets(identifier, configuration)
    case, _, _ = compared.preprocessed(identifier, configuration)
    assert case.image.shape == data.shape and case.image.shape[1:] != case.history.shape_after_crop, (
        "nothing was resampled"
    )
    for ours, theirs, scheme in zip(case.image, data, ("zscore", "ct", "none", "rescale_to_0_1"), strict=True):
        np.testing.assert_allclose(
            ours, theirs, rtol=0, atol=1e-4 if scheme != "none" else 1e-6 * np.abs(theirs).max(), err_msg=scheme
        )
    assert [list(side) for side in case.history.crop] == [list(side) for side in properties["bbox_used_for_cropping"]]
    assert (case.label == seg[0]).mean() > 0.999 and set(np.unique(case.label)) == {OUTSIDE_NONZERO, 0, 1, 2}
    found = sample_locations(case.label, compared.dataset.spec.labels)
    assert [len(voxels) for voxels in found.classes] == [len(properties["class_locations"][value]) for value in (1, 2)]
    assert found.annotated is None


@pytest.mark.parametrize(
    "labels,order",
    [({"background": 0, "all": [1, 2], "b": 2}, [1, 2]), ({"background": 0, "a": 1, "b": 2, "ignore": 3}, None)],
)
def test_numbers_of_sampled_voxels_are_nnunets(labels, order):
    from samunet.core.labels import parse_labels

    meaning = parse_labels(labels, order)
    label = np.zeros((40, 130, 250), np.int16)
    label[:, :, 5:215], label[3:12, 10:60, 20:80], label[..., 230:] = (
        1,
        2,
        3 if meaning.ignore else 1,
    )  # over a million voxels, 27 000, ...
    wanted = [values if meaning.has_regions else values[0] for _, values in meaning.foreground]
    if meaning.ignore is not None:
        wanted.append([-1, *meaning.all_values])
    theirs = default_preprocessor.DefaultPreprocessor._sample_foreground_locations(label[None], wanted)
    found = sample_locations(label, meaning)
    ours = (*found.classes, *([] if found.annotated is None else [found.annotated]))
    assert [len(voxels) for voxels in ours] == [len(voxels) for voxels in theirs.values()] and len(
        ours[0]
    ) > 10_000 == len(ours[1])
    for voxels, values in zip(ours, wanted, strict=True):
        assert np.isin(label[tuple(voxels.T)], values).all() and len(np.unique(voxels, axis=0)) == len(voxels)


def test_running_samunet_leaves_every_file_of_nnunet_as_it_was_and_the_other_way_round(tmp_path, monkeypatch):
    monkeypatch.setattr(extract, "SAMPLES", SAMPLES)
    workspace = folders(tmp_path)
    name = "Dataset005_Shared"
    write_heads(workspace, name, 0, {"0": "T1"}, cases=5)
    run_nnunet(workspace, 5, ("2d", "3d_fullres"))
    identifiers = [f"c{i}" for i in range(5)]
    (workspace.preprocessed / name / "splits_final.json").write_text(
        json.dumps(
            generate_crossval_split(identifiers, seed=12345, n_splits=5), sort_keys=True, indent=4
        )  # as nnU-Net's save_json does
    )

    def contents() -> dict[str, bytes]:
        return {
            str(path.relative_to(tmp_path)): path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()
        }

    before = contents()
    assert {"dataset_fingerprint.json", "nnUNetPlans.json", "splits_final.json", "dataset.json"} < {
        Path(path).name for path in before
    }
    assert any(path.endswith(".pkl") for path in before) and any(path.endswith("_seg.b2nd") for path in before)

    dataset = pipeline.open_dataset(workspace, 5)
    fingerprint = pipeline.extract(workspace, dataset, threads=1, clean=True, quiet=True)
    plan = pipeline.plan(workspace, dataset, fingerprint, pipeline.PlanOptions(backbone="vit_nano"))
    for configuration in plan.configurations:
        pipeline.preprocess(workspace, dataset, plan, configuration, threads=1, quiet=True)
    split_for_fold(workspace.preprocessed / name, identifiers, "0")
    after = contents()
    assert {path: data for path, data in after.items() if path in before} == before
    new = {str(Path(path).relative_to(f"preprocessed/{name}")).split("/")[0] for path in set(after) - set(before)}
    assert new == {"samunet_fingerprint.json", "samunetPlans.json", "samunetPlans_2d", "samunetPlans_3d"}

    run_nnunet(workspace, 5, ("3d_fullres",))
    again = contents()
    assert set(again) == set(after) and {path: again[path] for path in set(after) - set(before)} == {
        path: after[path] for path in set(after) - set(before)
    }
    assert again[f"preprocessed/{name}/nnUNetPlans.json"] == before[f"preprocessed/{name}/nnUNetPlans.json"]


def test_nnunet_can_open_what_samunet_stores(compared, tmp_path):
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    from samunet.preprocessing.storage import Origin, save_case

    case, _, configuration = compared.preprocessed("c1", "3d_fullres")
    save_case(
        tmp_path, "c1", case, compared.dataset.spec.labels, configuration.patch_size, Origin(settings="", files="")
    )
    (tmp_path / "c1.pkl").write_bytes(b"\x80\x04}\x94.")  # an empty dict; nnU-Net's properties are not ours to write
    data, seg, _, _ = nnUNetDatasetBlosc2(str(tmp_path), ["c1"]).load_case("c1")
    np.testing.assert_array_equal(data[:], case.image)
    np.testing.assert_array_equal(seg[0], case.label)
    assert data.dtype == np.float32 and seg.dtype == np.int16
    block, chunk = comp_blosc2_params(data.shape, configuration.patch_size, 4)
    assert (open_array(tmp_path / "c1.b2nd").chunks, open_array(tmp_path / "c1.b2nd").blocks) == (chunk, block)
