"""Break one decisive line at a time, and see that the tests named beside it notice.

    python tests/mutants.py                     # all of them, one after the other; ends with 1 where one survives
    python tests/mutants.py --only tiling holm  # those whose name or file holds one of the words
    python tests/mutants.py --jobs 2            # two side by side
    python tests/mutants.py --resume            # without those that the last call killed

Each mutant is run in a copy of the package and its tests, so that the working tree stays as it is. The suite must be
green before: a test that fails anyway kills everything.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
KILLED = Path(tempfile.gettempdir()) / "samunet_mutants_killed.txt"
SECONDS = 900  # of the tests of one mutant; one that never ends is noticed too
COPIED = (
    "samunet",
    "tests",
    "documentation",
    "benchmarks",
    "pyproject.toml",
    "README.md",
    "CHANGELOG.md",
    "SECURITY.md",
    ".ci",
)
FAILED = 1  # pytest's exit code where tests ran and one failed


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One wrong line."""

    name: str
    file: str
    """Within the package."""
    old: str
    """Stands there exactly once."""
    new: str
    tests: str
    """Within tests/; a test file, or one test of it, that must notice; several with spaces between."""
    why: str


def mutant(name: str, file: str, old: str, new: str, tests: str, why: str) -> Mutant:
    """Return a mutant; the list reads better without keywords."""
    return Mutant(name=name, file=file, old=old, new=new, tests=tests, why=why)


MUTANTS = (
    # Where voxels lie.
    mutant(
        "corners beyond the last voxel",
        "core/geometry.py",
        ".T * (np.array(self.shape) - 1)",
        ".T * np.array(self.shape)",
        "core/test_geometry.py evaluation/test_score.py",
        "Grids of unlike spacing would seem further apart than they are, and good predictions be refused.",
    ),
    mutant(
        "spacing along world axes",
        "core/geometry.py",
        "np.array(self.direction) * np.array(self.spacing)[:, None]",
        "np.array(self.direction) * np.array(self.spacing)[None, :]",
        "core/test_geometry.py",
        "Each axis of the array has its own spacing, whichever way it runs.",
    ),
    mutant(
        "turned where it lies right",
        "core/geometry.py",
        "flips = tuple(here[axis] != letter",
        "flips = tuple(here[axis] == letter",
        "core/test_geometry.py preprocessing/test_forward_backward.py",
        "Cases that lie as the plan says would be mirrored, left for right.",
    ),
    mutant(
        "clicks in array order",
        "core/prompts.py",
        "index = position[::-1]",
        "index = position",
        "core/test_prompts.py",
        "Prompts are x, y, z and arrays are D, H, W; a click would show another voxel.",
    ),
    mutant(
        "RAS taken for LPS in y",
        "core/prompts.py",
        '"ras": (-1.0, -1.0, 1.0)',
        '"ras": (-1.0, 1.0, 1.0)',
        "core/test_prompts.py",
        "Clicks from viewers of NIfTI files would land on the other side of the body.",
    ),
    mutant(
        "points half a voxel outside accepted",
        "core/prompts.py",
        "if any(not -0.5 <= place <= size - 0.5 for",
        "if any(not -1.5 <= place <= size + 0.5 for",
        "core/test_prompts.py",
        "A click in the wrong coordinates is refused rather than moved to the rim.",
    ),
    # What files say.
    mutant(
        "true is a number",
        "core/codec.py",
        "_require(isinstance(raw, int) and not isinstance(raw, bool), where",
        "_require(isinstance(raw, int), where",
        "core/test_codec.py",
        "Python takes true for 1; a file that says it is wrong.",
    ),
    mutant(
        "unknown keys pass",
        "core/codec.py",
        "        if key not in fields:",
        "        if key not in fields and not key.islower():",
        "core/test_codec.py",
        "A misspelled key would leave its default without a word.",
    ),
    mutant(
        "the last of two equal keys counts",
        "core/codec.py",
        "if len(members) < len(pairs):",
        "if len(members) < len(pairs) - 1:",
        "core/test_codec.py",
        "Whoever edits a plan by hand and writes a key twice must hear of it.",
    ),
    mutant(
        "a part is no list of its length",
        "core/codec.py",
        "_require(len(raw) == len(arguments), where",
        "_require(len(raw) <= len(arguments), where",
        "core/test_codec.py core/test_plan.py",
        "A spacing of two numbers would end in a traceback later.",
    ),
    mutant(
        "background where it was written",
        "core/labels.py",
        "sorted(values.items(), key=lambda item: item[1] != (0,))",
        "list(values.items())",
        "core/test_labels.py",
        "Background is output channel 0 in whatever order dataset.json names it.",
    ),
    mutant(
        "any ignore label",
        "core/labels.py",
        "if ignore not in (None, (numbers[-1] + 1,)):",
        "if ignore not in (None, (numbers[-1] + 1,), (numbers[-1],)):",
        "core/test_labels.py",
        "A class that is also the ignore label would never be trained.",
    ),
    mutant(
        "the lock is not kept",
        "core/lock.py",
        "        stack.enter_context(_taken(whole, wait))",
        "        with _taken(whole, wait):\n            pass",
        "core/test_lock.py",
        "Two trainings would write one fold.",
    ),
    # Resampling.
    mutant(
        "anisotropy of two",
        "ops/resample.py",
        "ANISOTROPY = 3.0",
        "ANISOTROPY = 2.0",
        "ops/test_resample_and_tiling.py parity/test_ops_against_nnunet.py",
        "nnU-Net treats slices apart from three times on.",
    ),
    mutant(
        "one of two thick axes",
        "ops/resample.py",
        "return largest[0] if len(largest) == 1 else None",
        "return largest[0]",
        "ops/test_resample_and_tiling.py parity/test_ops_against_nnunet.py",
        "Two axes that share the largest spacing are no slices.",
    ),
    mutant(
        "nearest voxel rounded down",
        "ops/resample.py",
        "np.clip(np.floor(centers + 0.5).astype(int), 0, size - 1)",
        "np.clip(np.floor(centers).astype(int), 0, size - 1)",
        "ops/test_resample_and_tiling.py",
        "Slices would be taken from the neighbor below.",
    ),
    mutant(
        "splines overshoot",
        "ops/resample.py",
        "return np.clip(array, lowest, highest)",
        "return array",
        "ops/test_resample_and_tiling.py parity/test_ops_against_nnunet.py",
        "Cubic splines ring beyond the intensities that the image holds.",
    ),
    mutant(
        "linear images",
        "ops/resample.py",
        "axis: int | None, order: int = 3)",
        "axis: int | None, order: int = 1)",
        "ops/test_resample_and_tiling.py parity/test_ops_against_nnunet.py",
        "Images are resampled by cubic splines, as nnU-Net does.",
    ),
    # Normalization and crop.
    mutant(
        "CT not clipped",
        "ops/normalize.py",
        "clipped = np.clip(values, np.float32(statistics.percentile_00_5), np.float32(statistics.percentile_99_5))",
        "clipped = values.copy()",
        "ops/test_normalize.py",
        "Metal would stretch the scale.",
    ),
    mutant(
        "masks are not looked at",
        "ops/normalize.py",
        "if not channel.within_mask:",
        "if not channel.within_mask or mask.mean() > 0.3:",
        "ops/test_normalize.py parity/test_ops_against_nnunet.py",
        "Z-scores within the body must not count the zeros around it.",
    ),
    mutant(
        "RGB by 256",
        "ops/normalize.py",
        "return values / np.float32(255)",
        "return values / np.float32(256)",
        "ops/test_normalize.py parity/test_ops_against_nnunet.py",
        "White is 1.",
    ),
    mutant(
        "holes are outside",
        "ops/crop.py",
        "return binary_fill_holes(mask)",
        "return mask",
        "ops/test_crop_and_overlap.py parity/test_ops_against_nnunet.py",
        "Zeros within the body, air in the lung for one, belong to it.",
    ),
    mutant(
        "the last row is cut off",
        "ops/crop.py",
        "int(present[-1]) + 1)",
        "int(present[-1]))",
        "ops/test_crop_and_overlap.py",
        "A box ends after its last voxel.",
    ),
    # Tiles.
    mutant(
        "tiles too far apart",
        "ops/tiling.py",
        "count = math.ceil((size - tile) / (tile * step)) + 1",
        "count = math.floor((size - tile) / (tile * step)) + 1",
        "ops/test_resample_and_tiling.py",
        "Tiles may not lie further apart than the step says.",
    ),
    mutant(
        "a wide Gaussian",
        "ops/tiling.py",
        "sigma_scale: float = 1 / 8",
        "sigma_scale: float = 1 / 4",
        "ops/test_resample_and_tiling.py parity/test_ops_against_nnunet.py",
        "nnU-Net weighs the rims of tiles with an eighth of the side.",
    ),
    mutant(
        "weights counted as one",
        "inference/sliding_window.py",
        "weight[depth, height, width] += importance",
        "weight[depth, height, width] += 1",
        "inference/test_sliding_window.py",
        "The mean of tiles is weighted; logits at rims would shrink.",
    ),
    mutant(
        "flips not turned back",
        "inference/passes.py",
        "yield part.flip(flip) if flip else part",
        "yield part",
        "inference/test_passes.py",
        "Predictions of mirrored tiles would be averaged mirrored.",
    ),
    # Scores.
    mutant(
        "ignored where predicted so",
        "ops/overlap.py",
        "valid = reference != ignore",
        "valid = prediction != ignore",
        "ops/test_crop_and_overlap.py evaluation/test_score.py",
        "Voxels without annotation count for nothing, whatever is predicted there.",
    ),
    mutant(
        "absent classes are perfect",
        "ops/overlap.py",
        "return 2 * self.tp / total if total else math.nan",
        "return 2 * self.tp / total if total else 1.0",
        "ops/test_crop_and_overlap.py evaluation/test_score.py",
        "A class in neither has no Dice, as in nnU-Net.",
    ),
    mutant(
        "percentile of both directions at once",
        "ops/surface.py",
        "hd95=float(max(np.percentile(to_prediction, 95), np.percentile(to_reference, 95)))",
        "hd95=float(np.percentile(both, 95))",
        "ops/test_surface.py",
        "HD95 is the larger one of two percentiles; a small far blob would vanish in a large surface.",
    ),
    mutant(
        "distances on axes turned round",
        "ops/surface.py",
        "anisotropy=spacing)",
        "anisotropy=spacing[::-1])",
        "ops/test_surface.py",
        "Slices are thick along D.",
    ),
    mutant(
        "nothing predicted is near",
        "ops/surface.py",
        "hd=diagonal, hd95=diagonal, assd=diagonal, nsd=0.0",
        "hd=diagonal, hd95=0.0, assd=diagonal, nsd=0.0",
        "ops/test_surface.py",
        "An empty prediction is as wrong as it can be.",
    ),
    mutant(
        "what is ignored is outside",
        "ops/surface.py",
        "surface(mask | ignored) & mask",
        "surface(mask)",
        "ops/test_surface.py",
        "Between slices without annotation every voxel of a slice would be its surface.",
    ),
    mutant(
        "components by faces",
        "ops/components.py",
        "CORNERS: Final = 26",
        "CORNERS: Final = 6",
        "ops/test_components.py",
        "Voxels that share a corner are one component, as in nnU-Net.",
    ),
    mutant(
        "one of two equal components",
        "ops/components.py",
        "sizes == sizes.max()",
        "np.arange(len(sizes)) == sizes.argmax()",
        "ops/test_components.py",
        "Of two kidneys of one size both stay.",
    ),
    mutant(
        "grids apart are compared",
        "evaluation/score.py",
        "    if apart >= REFUSE_VOXELS:",
        "    if apart >= 4 * REFUSE_VOXELS:",
        "evaluation/test_score.py",
        "A prediction that lies elsewhere must not get a score.",
    ),
    mutant(
        "a class may lose by postprocessing",
        "evaluation/postprocessing.py",
        "if known_mean(after) > known_mean(before) and not (after < before).any():",
        "if known_mean(after) > known_mean(before):",
        "evaluation/test_postprocessing.py",
        "Keeping one component of all is adopted only where no class loses.",
    ),
    mutant(
        "equal is better",
        "evaluation/postprocessing.py",
        "if after[index] > before[index]:",
        "if after[index] >= before[index]:",
        "evaluation/test_postprocessing.py",
        "A step that changes nothing in validation may remove something elsewhere.",
    ),
    # Statistics.
    mutant(
        "Bonferroni for Holm",
        "comparison/statistics.py",
        "(len(ascending) - rank) * value",
        "len(ascending) * value",
        "comparison/test_statistics.py",
        "Holm's steps fall.",
    ),
    mutant(
        "Holm out of order",
        "comparison/statistics.py",
        "largest = max(largest, min(1.0, ",
        "largest = max(0.0, min(1.0, ",
        "comparison/test_statistics.py",
        "A larger p-value is never adjusted to a smaller one.",
    ),
    mutant(
        "cases in place of patients",
        "comparison/statistics.py",
        "_, group = np.unique(names, return_inverse=True)",
        "group = np.arange(len(names))",
        "comparison/test_statistics.py",
        "Images of one patient are no independent draws; intervals would be too narrow.",
    ),
    mutant(
        "the interval alone shows",
        "comparison/statistics.py",
        "return difference.p < SIGNIFICANCE and side != 0 and side == difference.rank_sign",
        "return side != 0 and side == difference.rank_sign",
        "comparison/test_statistics.py",
        "A difference is shown where interval and test agree.",
    ),
    # Splits and plans.
    mutant(
        "cases as they come",
        "planning/splits.py",
        "names = np.sort(list(set(groups.values())))",
        "names = np.array(list(dict.fromkeys(groups.values())))",
        "planning/test_splits.py",
        "Folds are nnU-Net's whatever the order of files.",
    ),
    mutant(
        "another seed of splits",
        "planning/splits.py",
        "random_state=SPLIT_SEED)",
        "random_state=SPLIT_SEED + 1)",
        "planning/test_splits.py",
        "Folds are nnU-Net's, so that both are compared on the same cases.",
    ),
    mutant(
        "patients parted",
        "planning/splits.py",
        "    groups = groups or {name: name for name in identifiers}",
        "    groups = {name: name for name in identifiers}",
        "planning/test_splits.py",
        "Images of one patient in training and validation flatter.",
    ),
    mutant(
        "narrow at any memory",
        "planning/planners/default.py",
        "base_width = 32 if target.memory_gib >= WIDE_FROM_GIB else 24",
        "base_width = 24",
        "planning/test_planner.py",
        "From 12 GiB on the convolutional path has nnU-Net's width.",
    ),
    mutant(
        "wide only beyond the threshold",
        "planning/planners/default.py",
        "WIDE_FROM_GIB = 12.0",
        "WIDE_FROM_GIB = 16.0",
        "planning/test_planner.py",
        "A card of 12 GiB counts as one.",
    ),
    mutant(
        "batches of half the dataset",
        "planning/planners/default.py",
        "LARGEST_SHARE = 0.05",
        "LARGEST_SHARE = 0.5",
        "planning/test_planner.py parity/test_planning_against_nnunet.py",
        "A batch covers five percent of the voxels at most.",
    ),
    mutant(
        "masks from half on",
        "planning/planners/default.py",
        "MASK_BELOW = 0.75",
        "MASK_BELOW = 0.5",
        "planning/test_planner.py parity/test_planning_against_nnunet.py",
        "nnU-Net normalizes within the mask where cropping leaves less than three quarters.",
    ),
    mutant(
        "slices along the finest axis",
        "planning/planners/default.py",
        "axis = int(np.argmax(spacing))",
        "axis = int(np.argmin(spacing))",
        "planning/test_planner.py parity/test_planning_against_nnunet.py",
        "Slices lie across the thickest axis.",
    ),
    mutant(
        "median of thick slices",
        "planning/planners/default.py",
        "np.percentile(spacings[:, thick], 10)",
        "np.percentile(spacings[:, thick], 50)",
        "planning/test_planner.py parity/test_planning_against_nnunet.py",
        "Across thick slices nnU-Net takes the tenth percentile.",
    ),
    mutant(
        "left mirrored to right",
        "planning/planners/default.py",
        "return tuple(axis for axis in range(3) if axis not in sided)",
        "return (0, 1, 2)",
        "planning/test_planner.py",
        "A flipped left kidney is a right one.",
    ),
    mutant(
        "every axis halved alike",
        "planning/topology.py",
        "halved = [axis for axis in candidates if current[axis] < 2 * finest]",
        "halved = candidates",
        "planning/test_topology.py",
        "Thick slices are halved once voxels are about cubes.",
    ),
    mutant(
        "features of half the bytes",
        "models/unet_rules.py",
        "FEATURE_BYTES = 8.5",
        "FEATURE_BYTES = 4.0",
        "pipeline/test_memory_estimate.py",
        "Plans would not fit the memory that they are made for.",
    ),
    mutant(
        "tokens that keep less",
        "models/rules.py",
        "per_token = 18 * backbone.width",
        "per_token = 14 * backbone.width",
        "pipeline/test_memory_estimate.py",
        "An encoder's activations are most of what a method without convolutions needs.",
    ),
    mutant(
        "fp32 as small as bf16",
        "pipeline/estimating.py",
        '"fp32": 1.31}',
        '"fp32": 1.0}',
        "pipeline/test_memory_estimate.py",
        "Full precision needs half as much again.",
    ),
    # To the network's grid and back.
    mutant(
        "2D resampled across slices",
        "preprocessing/forward.py",
        "return (spacing[0], configuration.spacing[1], configuration.spacing[2])",
        "return configuration.spacing",
        "preprocessing/test_forward_backward.py",
        "2D configurations leave the slices where they are.",
    ),
    mutant(
        "outside is not marked",
        "preprocessing/forward.py",
        "label[(label == 0) & ~mask] = OUTSIDE_NONZERO",
        "label[(label == 0) & ~mask] = 0",
        "preprocessing/test_forward_backward.py parity/test_ops_against_nnunet.py",
        "Where an image is normalized within its mask, augmentation must know what lies outside.",
    ),
    mutant(
        "equal scores to the last class",
        "preprocessing/backward.py",
        "np.copyto(winner, values[candidate], where=score > best)",
        "np.copyto(winner, values[candidate], where=score >= best)",
        "preprocessing/test_forward_backward.py",
        "Of equal scores the first class wins, as argmax says.",
    ),
    mutant(
        "no background outside the crop",
        "preprocessing/backward.py",
        "            plane[...] = 1",
        "            plane[...] = 0",
        "preprocessing/test_forward_backward.py inference/test_ensemble.py",
        "Probabilities add up to one everywhere.",
    ),
    mutant(
        "regions painted the other way round",
        "preprocessing/backward.py",
        "    for score, value in zip(scores, values, strict=True):\n        if score.min() > 0:",
        "    for score, value in list(zip(scores, values, strict=True))[::-1]:\n        if score.min() > 0:",
        "preprocessing/test_forward_backward.py",
        "Later regions lie over earlier ones: the tumor's core over the tumor.",
    ),
    # What a patch shows.
    mutant(
        "the first class always",
        "data/sampling.py",
        "voxels = present[random.integers(len(present))]",
        "voxels = present[0]",
        "data/test_sampling.py parity/test_sampling_against_nnunet.py",
        "Foreground patches look for every class alike.",
    ),
    mutant(
        "patches beyond the image",
        "data/sampling.py",
        "return min(max(center - patch // 2, 0), size - patch)",
        "return max(center - patch // 2, 0)",
        "data/test_sampling.py",
        "A patch stays inside an image that holds it.",
    ),
    mutant(
        "no patch is forced",
        "data/loader.py",
        "foreground = item >= round(self.batch_size * (1 - FOREGROUND_SHARE))",
        "foreground = item > round(self.batch_size * (1 - FOREGROUND_SHARE))",
        "data/test_loader.py data/test_sampling.py parity/test_sampling_against_nnunet.py",
        "A third of each batch, one of two, is cut around foreground.",
    ),
    mutant(
        "no rotation",
        "data/augmentation.py",
        "p_rotation=0.2",
        "p_rotation=0.0",
        "data/test_augmentation.py parity/test_sampling_against_nnunet.py",
        "One patch in five is turned, as in nnU-Net.",
    ),
    mutant(
        "gamma inverted as often as not",
        "data/augmentation.py",
        "apply_probability=0.3,",
        "apply_probability=0.1,",
        "data/test_augmentation.py parity/test_sampling_against_nnunet.py",
        "Gamma comes in three patches of ten, as in nnU-Net.",
    ),
    mutant(
        "flat patches turned out of the plane",
        "data/augmentation.py",
        "return max(self.patch_size) / self.patch_size[0] > FLAT_FROM",
        "return max(self.patch_size) / self.patch_size[0] > 2 * FLAT_FROM",
        "data/test_augmentation.py parity/test_sampling_against_nnunet.py",
        "Thick slices are turned within their plane only.",
    ),
    # Losses and gradients.
    mutant(
        "ignored voxels in the cross-entropy",
        "models/losses.py",
        "return entropy * known, probabilities",
        "return entropy, probabilities",
        "models/test_losses.py",
        "Voxels without annotation teach nothing.",
    ),
    mutant(
        "background has a Dice",
        "models/losses.py",
        "probabilities, target = probabilities[:, 1:], target[:, 1:]",
        "probabilities, target = probabilities[:, 0:], target[:, 0:]",
        "models/test_losses.py",
        "nnU-Net's Dice is over the foreground.",
    ),
    mutant(
        "a smooth of one",
        "models/losses.py",
        "SMOOTH = 1e-5",
        "SMOOTH = 1.0",
        "models/test_losses.py",
        "Small structures would get a Dice that they do not have.",
    ),
    mutant(
        "every resolution alike",
        "models/losses.py",
        "share = 0.5**level / sum(0.5**other for other in range(levels))",
        "share = 1 / levels",
        "models/test_losses.py",
        "Deep supervision halves its weight with each level.",
    ),
    mutant(
        "plain denominators",
        "models/losses.py",
        '"predicted": (probabilities * probabilities).sum(axes),',
        '"predicted": probabilities.sum(axes),',
        "models/test_losses.py variants/test_samed_full_frozen.py",
        "SAMed's and MA-SAM's Dice squares its denominators.",
    ),
    mutant(
        "other dropout in the second pass",
        "training/accumulate.py",
        "        _set_random_state(device, state)  # the same dropout as in the first pass\n",
        "",
        "training/test_accumulate.py",
        "The two passes of a batch over parts must drop the same features.",
    ),
    mutant(
        "each process's whole loss",
        "training/accumulate.py",
        "return loss.detach() * (held / whole)",
        "return loss.detach()",
        "training/test_accumulate.py training/test_processes.py",
        "The losses of two processes would add up to twice the loss.",
    ),
    mutant(
        "a slow average from the start",
        "training/average.py",
        "decay = min(self.decay, (1 + step) / (10 + step))",
        "decay = self.decay",
        "training/test_options_of_training.py",
        "The average would remember the random start.",
    ),
    mutant(
        "no warm-up",
        "training/schedule.py",
        "return (step + 1) / rising",
        "return 1.0",
        "training/test_schedule_and_config.py",
        "Pretrained weights are not shaken at the first steps.",
    ),
    mutant(
        "the steps that measure are part of the warm-up",
        "training/schedule.py",
        "position = max(0, schedule.epoch - schedule.measuring_epochs) * schedule.steps",
        "position = schedule.epoch * schedule.steps",
        "training/test_pace.py",
        "With few epochs the two first steps would take the whole warm-up with them.",
    ),
    mutant(
        "a mask's name is enough",
        "imageio/masks.py",
        "(holds_labels(path) if path in said else",
        "(True if path in said else",
        "imageio/test_masks.py",
        "An image that is called a mask would not be predicted.",
    ),
    mutant(
        "references in doubt are images",
        "evaluation/score.py",
        "holds_labels(path) is not False)",
        "holds_labels(path))",
        "evaluation/test_score.py",
        "References that hold numbers of objects, or cannot be read, would not be scored, without a word.",
    ),
    mutant(
        "a training of minutes goes on at its first rate",
        "training/schedule.py",
        "clock, pace, epoch=epoch, compiled=config.compile, run=run)",
        "clock, pace, compiled=config.compile, run=run)",
        "training/test_schedule_and_config.py",
        "A training that continues has the learning rate of its place, not of its start.",
    ),
    mutant(
        "no clipping",
        "training/trainer.py",
        "nn.utils.clip_grad_norm_(self.trained, config.gradient_clip or math.inf)",
        "nn.utils.clip_grad_norm_(self.trained, math.inf)",
        "training/test_steps.py",
        "One wild batch would throw the weights away.",
    ),
    mutant(
        "one rate for every layer",
        "training/optimizer.py",
        "peak = peaks[group.part] * group.scale",
        "peak = peaks[group.part]",
        "training/test_steps.py",
        "Layers near the input move less.",
    ),
    mutant(
        "validation without the average",
        "training/trainer.py",
        "        with self.state.averaged():\n            return validate_patches(",
        "        if True:\n            return validate_patches(",
        "training/test_steps.py",
        "What is validated is what will predict.",
    ),
    mutant(
        "the best by one epoch's Dice",
        "training/trainer.py",
        'deciding = smoothed(mean, log.values.get("ema_fg_dice", []))',
        "deciding = mean",
        "training/test_steps.py",
        "A lucky epoch is not the best model.",
    ),
    mutant(
        "the plan's batch size by another name",
        "pipeline/run.py",
        "return replace(asked, batch_size=asked.batch_size or planned_batch)",
        "return replace(asked, batch_size=asked.batch_size or planned_batch + 1)",
        "training/test_steps.py",
        "Without another number, the plan's batch size trains.",
    ),
    # What is kept and passed on.
    mutant(
        "checksums are not compared",
        "checkpoints/file.py",
        "or stored[: len(computed)] != computed:",
        "or False:",
        "checkpoints/test_checkpoint.py",
        "A bit that fell over on a disk must not predict.",
    ),
    mutant(
        "paths that lead elsewhere",
        "checkpoints/zip_manifest.py",
        'if not parts[0] or ".." in parts or',
        "if not parts[0] or",
        "checkpoints/test_model_zip.py",
        "A zip from the web must not write outside its folder.",
    ),
    mutant(
        "links in a zip",
        "checkpoints/zip_manifest.py",
        "if stat.S_IFMT(mode) not in (0, stat.S_IFREG):",
        "if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFLNK):",
        "checkpoints/test_model_zip.py",
        "A link in a zip may point at any file of the machine.",
    ),
    mutant(
        "unpacked without a look",
        "checkpoints/zip_manifest.py",
        "    if file_sha256(target) != entry.sha256:",
        "    if target.stat().st_size != entry.size:",
        "checkpoints/test_model_zip.py",
        "Each file is the one that was packed.",
    ),
    # Networks.
    mutant(
        "convolutions start as torch's do",
        "models/unet.py",
        "nn.init.kaiming_normal_(layer.weight, a=0.01)",
        "layer.reset_parameters()",
        "variants/test_sam_unet.py",
        "nnU-Net's convolutions start by Kaiming's rule; torch's own start is less than half as wide.",
    ),
    mutant(
        "queries without a target weigh more",
        "variants/masksam/matching.py",
        "NO_OBJECT = 0.1",
        "NO_OBJECT = 0.2",
        "variants/test_masksam_matching.py",
        "MaskSAM weighs a query that finds nothing with 0.1.",
    ),
    mutant(
        "pixels padded at the top left",
        "models/pixels.py",
        "F.pad(planes, (0, missing[1], 0, missing[0]))",
        "F.pad(planes, (missing[1], 0, missing[0], 0))",
        "models/test_pixels.py",
        "SAM pads at the bottom and right; features would be off by the padding.",
    ),
    mutant(
        "features cut at the bottom right",
        "variants/sam_unet/network.py",
        "joined.movedim(-1, 1)[..., :height, :width]",
        "joined.movedim(-1, 1)[..., -height:, -width:]",
        "contracts/test_variants.py variants/test_sam_unet.py models/test_pixels.py",
        "The features of a padded plane lie at its top left.",
    ),
    mutant(
        "features read as they are",
        "variants/sam_unet/hypernetwork.py",
        "weights - weights.mean(-1, keepdim=True)",
        "weights",
        "variants/test_hypernetwork.py",
        "Over what all places share, a class wins everywhere.",
    ),
    mutant(
        "a closer look at too little",
        "interaction/closer.py",
        "least = max(AROUND * ",
        "least = max(0.7 * ",
        "interaction/test_closer.py",
        "The object would be cut off.",
    ),
    mutant(
        "a closer look that forgets where",
        "interaction/closer.py",
        "mask[part] = near.mask",
        "mask[: near.mask.shape[0], : near.mask.shape[1]] = near.mask",
        "interaction/test_closer.py",
        "The answer would lie in the plane's corner.",
    ),
    mutant(
        "gates open with the width of their input",
        "variants/sam_unet/network.py",
        "self.share = inputs**-0.5",
        "self.share = 1.0",
        "variants/test_sam_unet.py",
        "Adam's first steps would drown a stage in untrained features.",
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the mutants asked for; returns 0 where each is killed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="those whose name or file holds a word")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="mutants side by side (default: %(default)s)")
    parser.add_argument("--resume", action="store_true", help="leave out what the last calls killed")
    arguments = parser.parse_args(argv)
    killed = set(KILLED.read_text().splitlines()) if arguments.resume and KILLED.is_file() else set()
    if not arguments.resume:
        KILLED.unlink(missing_ok=True)
    asked = [
        one
        for one in MUTANTS
        if one.name not in killed
        and (not arguments.only or any(word in one.name or word in one.file for word in arguments.only))
    ]
    misplaced = [fault for one in asked if (fault := fault_of(one))]
    print(*misplaced, sep="\n", end="\n" if misplaced else "")
    if misplaced:
        return 1
    with ThreadPoolExecutor(arguments.jobs) as pool:
        survivors = [one.name for one, dead in zip(asked, pool.map(run, asked), strict=True) if not dead]
    print(f"{len(asked) - len(survivors)} of {len(asked)} killed" + "".join(f"\n  alive: {name}" for name in survivors))
    return 1 if survivors else 0


def fault_of(one: Mutant) -> str | None:
    """Say what is wrong with an entry of the list; None where nothing is."""
    path = ROOT / "samunet" / one.file
    count = path.read_text().count(one.old) if path.is_file() else 0
    if count != 1:
        return f"'{one.name}': its old text stands {count} times in {one.file}, expected once"
    absent = [test for test in one.tests.split() if not (ROOT / "tests" / test.split("::")[0]).is_file()]
    return f"'{one.name}': there is no {absent[0]}" if absent else None


def run(one: Mutant) -> bool:
    """Run the tests of one mutant in a copy of the tree; returns whether one failed."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="samunet-mutant-") as name:
        tree = Path(name)
        for part in COPIED:
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
            elif source.is_file():
                shutil.copyfile(source, tree / part)
        target = tree / "samunet" / one.file
        target.write_text(target.read_text().replace(one.old, one.new))
        tests = [f"tests/{test}" for test in one.tests.split()]
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header", *tests]
        environment = os.environ | {"PYTHONPATH": str(tree)}
        try:
            done = subprocess.run(
                command, cwd=tree, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
            )
            code, said = done.returncode, done.stdout
        except subprocess.TimeoutExpired:
            code, said = FAILED, ""
    dead = code == FAILED
    noticed = next((line for line in said.splitlines() if line.startswith(("FAILED", "ERROR"))), "").partition(" - ")[0]
    if dead:
        verdict = f"killed by {noticed.partition(' ')[2] or 'the clock'}"
    else:
        verdict = "SURVIVED" if code == 0 else f"could not be run: {said.strip()[-300:]}"
    print(f"{one.file}: {one.name}: {verdict} ({time.monotonic() - began:.0f} s)", flush=True)
    if dead:
        with KILLED.open("a") as file:
            file.write(f"{one.name}\n")
    return dead


if __name__ == "__main__":
    sys.exit(main())
