"""U-Net stages, worked out by hand (see tests/parity for nnU-Net's own function on random patches)."""

from __future__ import annotations

from samunet.planning.topology import divisors, topology_for


def stages(patch, spacing=(1.0, 1.0, 1.0), **options):
    return topology_for(patch, spacing, **{"base_width": 32, "max_width": 320, **options})


def test_an_isotropic_cube_of_128_has_six_stages_down_to_four_voxels():
    topology, patch = stages((128, 128, 128))
    assert topology.strides == ((1, 1, 1),) + 5 * ((2, 2, 2),)
    assert topology.kernels == 6 * ((3, 3, 3),)
    assert topology.widths == (32, 64, 128, 256, 320, 320)
    assert patch == (128, 128, 128) and divisors(topology) == (32, 32, 32)


def test_thick_slices_are_halved_later_and_convolved_within_the_plane_first():
    topology, patch = stages((20, 256, 224), (5.0, 1.0, 1.0))
    assert topology.strides == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2))
    assert topology.kernels == ((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))
    assert patch == (20, 256, 224) and divisors(topology) == (4, 32, 32)


def test_a_ratio_of_exactly_two_counts_as_thick():
    assert stages((32, 32, 32), (2.0, 1.0, 1.0))[0].strides[1] == (1, 2, 2)
    assert stages((32, 32, 32), (1.99, 1.0, 1.0))[0].strides[1] == (2, 2, 2)


def test_one_slice_stays_one_slice():
    topology, patch = stages((1, 64, 64), (1.0, 1.0, 1.0))
    assert topology.strides == ((1, 1, 1),) + 4 * ((1, 2, 2),) and topology.kernels == 5 * ((1, 3, 3),)
    assert patch == (1, 64, 64)


def test_the_spacing_of_a_missing_axis_plays_no_part():
    assert stages((1, 64, 64), (0.01, 1.0, 1.0)) == stages((1, 64, 64), (999.0, 1.0, 1.0))


def test_the_patch_grows_to_what_its_strides_divide():
    # 45, 50 -> 23, 25 -> 12, 13 -> 6, 7: three halvings, so multiples of 8
    topology, patch = stages((1, 45, 50))
    assert len(topology.strides) == 4 and patch == (1, 48, 56)


def test_a_last_axis_alone_needs_twelve_voxels_to_be_halved():
    assert stages((1, 12, 7))[0].strides == ((1, 1, 1), (1, 2, 1))
    assert stages((1, 11, 7))[0].strides == ((1, 1, 1),)
    assert stages((1, 8, 8))[0].strides == ((1, 1, 1), (1, 2, 2))


def test_a_patch_too_small_to_halve_has_one_stage():
    topology, patch = stages((4, 7, 5))
    assert (
        topology.strides == ((1, 1, 1),)
        and topology.kernels == ((3, 3, 3),)
        and topology.widths == (32,)
        and patch == (4, 7, 5)
    )


def test_widths_double_up_to_their_limit():
    assert stages((128, 128, 128), base_width=24, max_width=100)[0].widths == (24, 48, 96, 100, 100, 100)
