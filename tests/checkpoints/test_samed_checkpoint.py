"""Files of SAMed's authors: random tensors under their names, next to a network that computes with them by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from samples import planned_with_weights

from samunet.checkpoints.file import load_checkpoint
from samunet.checkpoints.samed import load_official, options_of
from samunet.cli import samed as command
from samunet.core.labels import parse_labels
from samunet.core.plan import Topology, load_plan
from samunet.core.results import model_folder
from samunet.errors import CheckpointError, ConfigError
from samunet.models.spec import NetworkSpec
from samunet.pipeline.exchange import SAMED, _check_method
from samunet.sam.backbones import backbone_named
from samunet.sam.build import build_sam
from samunet.variants import samed

NANO = backbone_named("vit_nano")
RANK = 3


def network_for(classes=1, **options):
    torch.manual_seed(0)
    spec = NetworkSpec(
        schemes=("zscore",),
        labels=parse_labels({"background": 0} | {f"organ {value}": value for value in range(1, classes + 1)}),
        spacing=(1.0, 1.0, 1.0),
        patch_size=(1, 64, 64),
        encoder_scale=1.0,
        topology=Topology(strides=((1, 1, 1),), kernels=((3, 3, 3),), widths=(8,)),
        pretrained=True,
    )
    return samed.build(build_sam(NANO, (64, 64)), spec, samed.Config(**options)).eval()


def authors_tensors(network, *, of_decoder) -> dict[str, torch.Tensor]:
    """What their training saves: LoRA as q, v, q, v, ... of the blocks, and SAM's prompt encoder and decoder."""
    torch.manual_seed(1)
    stored = {
        name: torch.randn_like(tensor)
        for name, tensor in network.head.state_dict().items()
        if not name.startswith("sites.") and not (of_decoder and ".transformer." in name)
    }

    def add(prefix, count, inputs, outputs):
        for index in range(count):
            stored[f"{prefix}_a_{index:03d}"] = torch.randn(RANK, inputs)
            stored[f"{prefix}_b_{index:03d}"] = torch.randn(outputs, RANK)

    add("w", 2 * NANO.depth, NANO.width, NANO.width)
    if of_decoder:
        wide, narrow = NANO.decoder_width, NANO.decoder_width // 2  # SAM's attentions across work in half the width
        for prefix, outputs in (("sa", wide), ("cti", narrow), ("cit", narrow)):
            add(prefix, 4, wide, outputs)
        for kind in "qv":
            stored[f"fati_{kind}a"], stored[f"fati_{kind}b"] = torch.randn(RANK, wide), torch.randn(narrow, RANK)
    return stored


@torch.no_grad()
@pytest.mark.parametrize("of_decoder", [False, True])
def test_every_tensor_finds_its_place(of_decoder):
    stored = authors_tensors(network_for(), of_decoder=of_decoder)
    options = options_of(stored)
    assert options == {"rank": RANK, "adapt_decoder": of_decoder}
    network = network_for(**options)
    load_official(network, stored)
    x = torch.randn(2, NANO.width)
    update = network.sites[2].qkv_update(x)
    query, value = (x @ stored[f"w_a_{index:03d}"].T @ stored[f"w_b_{index:03d}"].T for index in (4, 5))
    assert torch.allclose(update, torch.cat((query, torch.zeros_like(x), value), -1), atol=1e-4)
    assert torch.equal(network.head.mask_decoder.mask_tokens.weight, stored["mask_decoder.mask_tokens.weight"])
    if of_decoder:
        x = torch.randn(2, NANO.decoder_width)
        for layer, attention, q, v in (
            (1, "self", ("sa_a_002", "sa_b_002"), ("sa_a_003", "sa_b_003")),
            (0, "token_to_image", ("cti_a_000", "cti_b_000"), ("cti_a_001", "cti_b_001")),
            (1, "image_to_token", ("cit_a_002", "cit_b_002"), ("cit_a_003", "cit_b_003")),
            (2, "token_to_image", ("fati_qa", "fati_qb"), ("fati_va", "fati_vb")),
        ):
            query, _, value = network.head.sites[layer].update(attention, x, x, x)
            for given, (down, up) in ((query, q), (value, v)):
                assert torch.allclose(given, x @ stored[down].T @ stored[up].T, atol=1e-4)


def test_files_of_others_are_refused():
    network = network_for(rank=RANK)
    stored = authors_tensors(network, of_decoder=False)
    with pytest.raises(CheckpointError, match="lacks 'w_a_000'"):
        options_of({"image_encoder.pos_embed": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"no SAMed checkpoint .*: 0 tensors missing \(\), 1 unexpected"):
        load_official(network, stored | {"w_c_000": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="'w_b_003' has shape"):
        load_official(network, stored | {"w_b_003": torch.zeros(1)})


def test_regions_are_no_classes_of_the_authors():
    regions = parse_labels({"background": 0, "whole": [1, 2], "core": 2}, [1, 2])
    configuration = SimpleNamespace(variant="samed")
    with pytest.raises(ConfigError, match="SAMed's checkpoints have an output for background .* regions may overlap"):
        _check_method(configuration, SAMED, regions)
    _check_method(configuration, SAMED, parse_labels({"background": 0, "whole": 1}))


def test_an_authors_file_becomes_a_fold(tmp_path, monkeypatch):
    workspace, *_ = planned_with_weights(tmp_path, "Dataset907_LoRA", size=(4, 40, 32), side=64)
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(getattr(workspace, name)))
    file = tmp_path / "authors.pth"
    torch.save(authors_tensors(network_for(2), of_decoder=True), file)
    assert command.main(["import", str(file), "-d", "907"]) == 0
    model = model_folder(workspace, "Dataset907_LoRA", "samunetPlans", "2d_samed")
    options = load_plan(model / "plans.json").configuration("2d_samed").variant_options
    assert options == {"pixel_range": "unit", "rank": RANK, "adapt_decoder": True}
    stored = load_checkpoint(model / "fold_all" / "checkpoint_final.safetensors")
    assert stored.model["sites.0.query.0.weight"].shape == (RANK, NANO.width)
