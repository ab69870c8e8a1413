"""Files of Medical SAM Adapter's authors: their network written out after its description, filled with random tensors
of the official names.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from samples import planned_with_weights

from samunet import pipeline
from samunet.checkpoints.file import load_checkpoint
from samunet.checkpoints.med_sa import load_official
from samunet.cli import med_sa as command
from samunet.core.labels import parse_labels
from samunet.core.plan import Topology
from samunet.core.prompts import INSIDE
from samunet.core.results import model_folder
from samunet.errors import CheckpointError, ConfigError
from samunet.inference.load import load_predictor
from samunet.inference.predictor import PredictionOptions
from samunet.models.spec import NetworkSpec
from samunet.sam.backbones import backbone_named
from samunet.sam.build import build_sam
from samunet.sam.weights import read_tensors
from samunet.variants import med_sa_prompted

NANO = backbone_named("vit_nano")
SIDE = 96  # 6 x 6 tokens: two by two windows of 4, the outer ones padded
HEADS = NANO.heads


def sam_of(seed=0):
    torch.manual_seed(seed)
    sam = build_sam(NANO, (SIDE, SIDE))
    for name, parameter in sam.named_parameters():
        torch.nn.init.normal_(parameter, std=0.1) if "norm" not in name else parameter.data.add_(
            0.1 * torch.randn_like(parameter)
        )
    return sam.eval()


def network_for(depth, sam=None, compat="official", **options):
    spec = NetworkSpec(
        schemes=("zscore",),
        labels=parse_labels({"background": 0, "organ": 1}),
        spacing=(1.0, 1.0, 1.0),
        patch_size=(depth, SIDE, SIDE),
        encoder_scale=1.0,
        topology=Topology(strides=((1, 1, 1),), kernels=((3, 3, 3),), widths=(8,)),
        pretrained=True,
    )
    config = med_sa_prompted.METHOD.read({"compat": compat, **options}, "options")
    return med_sa_prompted.build(sam or sam_of(), spec, config).eval()


def released_tensors(sam) -> dict[str, torch.Tensor]:
    """What the authors' training saves: all of the network, under their names."""
    torch.manual_seed(5)
    stored = {}
    for name, tensor in sam.state_dict().items():
        if name.endswith(("rel_pos_h", "rel_pos_w")):
            name, tensor = name.replace("rel_pos", "rel"), torch.zeros_like(tensor)
        elif name.startswith("mask_decoder."):
            tensor = tensor + 0.1 * torch.randn_like(tensor)  # it trained
            if ".transformer.layers." in name:
                name = name.replace(".mlp.lin1.", ".mlp.layers.0.0.").replace(".mlp.lin2.", ".mlp.fc.")
        stored[name] = tensor
    width = NANO.width
    for index in range(NANO.depth):
        for part in ("Space", "MLP", "Depth"):
            for layer, shape in (("D_fc1", (width // 4, width)), ("D_fc2", (width, width // 4))):
                stored[f"image_encoder.blocks.{index}.{part}_Adapter.{layer}.weight"] = 0.3 * torch.randn(shape)
                stored[f"image_encoder.blocks.{index}.{part}_Adapter.{layer}.bias"] = 0.3 * torch.randn(shape[0])
    return stored


def attention(w, key, x):
    """(N, T, C) tokens among themselves, without relative positions."""
    q, k, v = (
        F.linear(x, w[f"{key}.qkv.weight"], w[f"{key}.qkv.bias"]).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
    )
    mixed = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v
    return F.linear(mixed.transpose(1, 2).flatten(2), w[f"{key}.proj.weight"], w[f"{key}.proj.bias"])


def adapter(w, key, x):
    return F.linear(
        F.gelu(F.linear(x, w[f"{key}.D_fc1.weight"], w[f"{key}.D_fc1.bias"])),
        w[f"{key}.D_fc2.weight"],
        w[f"{key}.D_fc2.bias"],
    )


def norm(w, key, x, eps=1e-6):
    return F.layer_norm(x, x.shape[-1:], w[f"{key}.weight"], w[f"{key}.bias"], eps)


def released_encoder(w, pixels, neck):
    """(D, 3, H, W) to (D, C, h, w); slices are the leading axis, as the authors feed a volume."""
    depth = len(pixels)
    x = F.conv2d(
        pixels, w["image_encoder.patch_embed.proj.weight"], w["image_encoder.patch_embed.proj.bias"], stride=16
    ).permute(0, 2, 3, 1)
    x = x + w["image_encoder.pos_embed"]
    for index in range(NANO.depth):
        key, side = f"image_encoder.blocks.{index}", x.shape[1]
        part = side if index in NANO.global_blocks else NANO.window
        padded = F.pad(x, (0, 0, 0, -side % part, 0, -side % part))  # before the norm
        count = padded.shape[1] // part
        windows = (
            padded.unflatten(2, (count, part)).unflatten(1, (count, part)).transpose(2, 3).flatten(0, 2)
        )  # (slice, row, column of windows)
        u = norm(w, f"{key}.norm1", windows).flatten(1, 2)
        a = attention(w, f"{key}.attn", u)
        z = a + adapter(w, f"{key}.Space_Adapter", a)
        if depth > 1:
            grouped = u.unflatten(0, (-1, depth)).transpose(1, 2)  # neighboring entries, whatever they are
            along = attention(w, f"{key}.attn", grouped.flatten(0, 1)).unflatten(0, grouped.shape[:2])
            z = z + adapter(w, f"{key}.Depth_Adapter", along).transpose(1, 2).flatten(0, 1)
        z = z.unflatten(1, (part, part)).unflatten(0, (depth, count, count)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        x = x + z[:, :side, :side]
        u = norm(w, f"{key}.norm2", x)
        hidden = F.gelu(F.linear(u, w[f"{key}.mlp.lin1.weight"], w[f"{key}.mlp.lin1.bias"]))
        x = (
            x
            + F.linear(hidden, w[f"{key}.mlp.lin2.weight"], w[f"{key}.mlp.lin2.bias"])
            + 0.5 * adapter(w, f"{key}.MLP_Adapter", u)
        )
    return neck(x.permute(0, 3, 1, 2))


def cross(w, key, q, k, v, heads=8):
    q, k, v = (
        F.linear(x, w[f"{key}.{n}_proj.weight"], w[f"{key}.{n}_proj.bias"]) for n, x in (("q", q), ("k", k), ("v", v))
    )
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    mixed = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v
    return F.linear(mixed.transpose(1, 2).flatten(2), w[f"{key}.out_proj.weight"], w[f"{key}.out_proj.bias"])


def released_decoder(w, sam, image, sparse):
    """(1, C, h, w) and (1, P, C) to (4h, 4w) logits of the first mask."""
    key = "mask_decoder.transformer"
    p = torch.cat((w["mask_decoder.iou_token.weight"], w["mask_decoder.mask_tokens.weight"]))[None]
    p = torch.cat((p, sparse), 1)
    kp = sam.prompt_encoder.pe_layer(image.shape[2:]).flatten(1).T[None]
    k = (image + sam.prompt_encoder.no_mask_embed.weight.view(1, -1, 1, 1)).flatten(2).transpose(1, 2)
    q = p
    for index in range(2):
        layer = f"{key}.layers.{index}"
        q = q if index == 0 else q + p
        q = norm(w, f"{layer}.norm1", q + cross(w, f"{layer}.self_attn", q, q, q), 1e-5)
        q = norm(w, f"{layer}.norm2", q + cross(w, f"{layer}.cross_attn_token_to_image", q + p, k + kp, k), 1e-5)
        hidden = F.relu(F.linear(q, w[f"{layer}.mlp.layers.0.0.weight"], w[f"{layer}.mlp.layers.0.0.bias"]))
        q = norm(
            w, f"{layer}.norm3", q + F.linear(hidden, w[f"{layer}.mlp.fc.weight"], w[f"{layer}.mlp.fc.bias"]), 1e-5
        )
        k = norm(w, f"{layer}.norm4", k + cross(w, f"{layer}.cross_attn_image_to_token", k + kp, q + p, q), 1e-5)
    q = norm(w, f"{key}.norm_final_attn", q + cross(w, f"{key}.final_attn_token_to_image", q + p, k + kp, k), 1e-5)
    upscaling, hyper = sam.mask_decoder.output_upscaling, sam.mask_decoder.output_hypernetworks_mlps[0]
    for part, name in ((upscaling, "output_upscaling"), (hyper, "output_hypernetworks_mlps.0")):
        part.load_state_dict({inner: w[f"mask_decoder.{name}.{inner}"] for inner in part.state_dict()})
    features = upscaling(k.transpose(1, 2).unflatten(2, image.shape[2:]))
    return (hyper(q[:, 1])[:, :, None, None] * features).sum(1)[0]


@torch.no_grad()
@pytest.mark.parametrize(
    ("depth", "compat", "tokens"), [(1, "official", 6), (2, "official", 6), (3, "official", 8), (1, "official_2025", 8)]
)
def test_the_network_is_the_released_one(depth, compat, tokens):
    """Of `tokens` rows and columns is the file's position table, which the released code resizes at every pass."""
    sam = sam_of()
    stored = released_tensors(sam)
    table = torch.randn(1, tokens, tokens, NANO.width)
    stored["image_encoder.pos_embed"] = table
    network = network_for(depth, compat=compat)
    load_official(network, {f"module.{name}": tensor for name, tensor in stored.items()})
    resized = F.interpolate(table.permute(0, 3, 1, 2), size=(6, 6), mode="bicubic", align_corners=False)
    stored["image_encoder.pos_embed"] = resized.permute(0, 2, 3, 1)
    image = torch.rand(1, 1, depth, SIDE, SIDE)
    image = (image - image.amin()) / (image.amax() - image.amin())  # pixels in [0, 1], as they fed them at first
    image = image if compat == "official" else 2 * image - 1  # then with SAM's statistics
    row, column = 30, 70
    drawn = torch.zeros(1, 1, depth, SIDE, SIDE, dtype=torch.uint8)
    drawn[0, 0, :, row, column] = INSIDE
    embedded = released_encoder(stored, image[0].transpose(0, 1).expand(-1, 3, -1, -1), sam.image_encoder.neck)
    assert torch.allclose(network.encode(network.pixels(image))[0], embedded, atol=2e-4)
    sam.prompt_encoder.input_image_size = (SIDE, SIDE)
    place = [row, column] if compat == "official" else [column, row]
    points = (torch.tensor([[place]]).float(), torch.ones(1, 1))
    sparse, _ = sam.prompt_encoder(points=points, boxes=None, masks=None)
    found = network(image, drawn)[0, 1]
    for index in range(depth):
        expected = released_decoder(stored, sam, embedded[index : index + 1], sparse)
        expected = F.interpolate(expected[None, None], size=(SIDE, SIDE), mode="bilinear")[0, 0]
        assert torch.allclose(found[index], expected, atol=2e-3 * float(expected.abs().max()))


def test_files_of_others_are_refused():
    sam = sam_of()
    stored, network = released_tensors(sam), network_for(1)
    short = {name: tensor for name, tensor in stored.items() if "Space" not in name}
    with pytest.raises(CheckpointError, match=r"16 tensors missing \(image_encoder.blocks.0.Space_Adapter.D_fc1.bias"):
        load_official(network, short)
    trained = {name: stored[name] for name in stored if "_Adapter" in name or name.startswith("mask_decoder.")}
    with pytest.raises(CheckpointError, match="no 'image_encoder.pos_embed', .*; give the whole network"):
        load_official(network, trained)
    with pytest.raises(CheckpointError, match="other weights of SAM than the plan's: 'image_encoder"):
        load_official(network_for(1, sam_of(1)), stored)
    with pytest.raises(CheckpointError, match="'image_encoder.blocks.0.attn.rel_h' is not zero"):
        load_official(network, stored | {"image_encoder.blocks.0.attn.rel_h": torch.ones(7, 16)})
    with pytest.raises(CheckpointError, match="has shape"):
        load_official(network, stored | {"image_encoder.blocks.0.MLP_Adapter.D_fc1.bias": torch.ones(3)})
    with pytest.raises(ConfigError, match="one of paper, official, official_2025"):
        med_sa_prompted.Config(compat="x")


@pytest.mark.parametrize("name", ["vit_b", "vit_h"])
def test_parameter_counts_are_those_of_the_released_code(name):
    backbone = backbone_named(name)
    spec = NetworkSpec(
        schemes=("ct",) * 3,
        labels=parse_labels({"background": 0, "organ": 1}),
        spacing=(1.0, 1.0, 1.0),
        patch_size=(4, 256, 256),
        encoder_scale=1.0,
        topology=Topology(strides=((1, 1, 1),), kernels=((3, 3, 3),), widths=(8,)),
        pretrained=True,
    )
    with torch.device("meta"):
        network = med_sa_prompted.build(
            build_sam(backbone, (256, 256)), spec, med_sa_prompted.Config(compat="official")
        )
    trained = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    assert round(trained / 1e6, 2) == {"vit_b": 14.71, "vit_h": 82.86}[name]


def test_an_authors_file_becomes_a_fold(tmp_path, monkeypatch, capsys):
    workspace, _, weights, plan = planned_with_weights(tmp_path, "Dataset906_Clicks", size=(4, 40, 32), side=64)
    for name, folder in (
        ("raw", workspace.raw),
        ("preprocessed", workspace.preprocessed),
        ("results", workspace.results),
    ):
        monkeypatch.setenv(f"nnUNet_{name}", str(folder))
    sam = build_sam(NANO, (64, 64))
    sam.load_state_dict(read_tensors(weights))
    file = tmp_path / "authors.pth"
    torch.save({"epoch": 3, "model": "sam", "state_dict": released_tensors(sam), "best_tol": 0.5}, file)
    assert command.main(["import", str(file), "-d", "906", "-c", "3d_adapter", "--code", "official"]) == 2
    assert (
        "fit the method med_sa_prompted only; the configuration has sam_unet. Use 3d_med_sa_prompted"
        in capsys.readouterr().err
    )
    assert command.main(["import", str(file), "-d", "906", "-c", "3d_med_sa_prompted", "--code", "official_2025"]) == 0
    model = model_folder(workspace, "Dataset906_Clicks", "samunetPlans", "3d_med_sa_prompted")
    stored = load_checkpoint(model / "fold_all" / "checkpoint_final.safetensors")
    assert torch.equal(
        stored.model["sites.2.space.down.weight"],
        released_tensors(sam)["image_encoder.blocks.2.Space_Adapter.D_fc1.weight"],
    )
    options = (
        pipeline.resolve(workspace, plan, "3d_med_sa_prompted").configuration("3d_med_sa_prompted").variant_options
    )
    assert options == {} and '"compat": "official_2025"' in (model / "plans.json").read_text()
    load_predictor(model, folds=["all"], device="cpu", options=PredictionOptions(flips=False, quiet=True))  # fits
