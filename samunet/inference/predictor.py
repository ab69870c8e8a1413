"""A trained model that turns volumes into segmentations; no files, no environment variables."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import repeat
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from samunet.checkpoints.file import check_frozen_weights, load_checkpoint, load_trainable_state
from samunet.core.dataset import DatasetSpec, read_dataset_json
from samunet.core.geometry import Geometry
from samunet.core.history import Box
from samunet.core.memory import peak_mib, start_peak
from samunet.core.plan import Configuration, Plan, load_plan
from samunet.core.preprocessed import PreprocessedCase
from samunet.core.prompts import INSIDE, SHOWS, CasePrompts
from samunet.core.results import FINAL, checkpoint_file, finished_folds
from samunet.core.volume import Volume
from samunet.errors import CheckpointError, ConfigError, PredictionError, ShapeError
from samunet.imageio import READERS, reader_of_image
from samunet.imageio.objects import ImageLike, as_volume
from samunet.inference.accumulators import Place, accumulators, best_place
from samunet.inference.passes import combine, flips_of, logits_from, passes
from samunet.inference.sliding_window import sliding_window
from samunet.inference.unlike import refuse_absurd_spacing, remarks_on_grid, remarks_on_intensities
from samunet.machine.hardware import PRECISION_NAMES, autocast, choose_device, choose_precision, is_out_of_memory
from samunet.machine.progress import bar
from samunet.models.prompted import ABSENT
from samunet.models.segmenter import SlabSegmenter
from samunet.ops.crop import crop
from samunet.ops.tiling import pad_to
from samunet.planning.known import refuse_unknown_names
from samunet.preprocessing.backward import probabilities_from_logits, resize_to_input_grid, segmentation_from_logits
from samunet.preprocessing.forward import preprocess
from samunet.preprocessing.prompt_map import prompt_map
from samunet.variants.network import build_network

logger = logging.getLogger(__name__)

CPU = torch.device("cpu")
NO_PROMPTS = "The model segments what prompts show; give clicks or boxes, --prompts FILE or prompts= (documentation/how-to/prompts.md)."
USELESS_PROMPTS = (
    "The model segments without prompts; leave --prompts out, or choose a model such as 3d_med_sa_prompted."
)
PRECISIONS = ("auto", *PRECISION_NAMES.values())


@dataclass(frozen=True, kw_only=True)
class PredictionOptions:
    """How the sliding window runs."""

    step_size: float = 0.5
    """Distance between tiles as a share of the tile."""
    slab_step: int | None = None
    """Distance between slabs in slices; None takes the share."""
    slab_votes: bool = False
    """Average the probabilities of every slab that holds a slice, all alike (MA-SAM's way), instead of weighted logits."""
    flips: bool = True
    """Average over the plan's mirror axes."""
    uncertainty: bool = False
    """Also tell where folds and flips disagree."""
    sums_on_device: bool = True
    """Sum up where the network runs while that leaves room, instead of in RAM."""
    precision: str = "auto"
    """fp32, bf16, fp16, or auto: see `samunet.machine.hardware.choose_precision`."""
    tile_batch: int = 1
    """Tiles in one forward pass; flipped copies count."""
    quiet: bool = False
    """No progress bars."""

    def __post_init__(self) -> None:
        if not 0 < self.step_size <= 1:
            raise ConfigError(
                f"The step size must be above 0 and at most 1; got {self.step_size}. nnU-Net's default is 0.5."
            )
        if self.precision not in PRECISIONS:
            raise ConfigError(f"The precision is one of {', '.join(PRECISIONS)}; got '{self.precision}'.")
        if self.slab_step is not None and self.slab_step < 1:
            raise ConfigError(f"The slab step is a number of slices, 1 or more; got {self.slab_step}.")
        if self.slab_votes and self.slab_step not in (None, 1):
            raise ConfigError(
                f"Slab votes move a slab by one slice at a time; got a slab step of {self.slab_step}, leave it out."
            )


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a predictor returns, on the grid of the image."""

    segmentation: np.ndarray
    """(D, H, W) label values, uint8 or uint16."""
    geometry: Geometry
    probabilities: np.ndarray | None = None
    """(K, D, H, W) float32, when asked for."""
    uncertainty: np.ndarray | None = None
    """(D, H, W) float32 in [0, 1], with the option of that name; see `samunet.inference.passes.combine`."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What the networks say of a volume, on their own grid, on the CPU or in a file."""

    logits: Tensor
    """(K, D, H, W) float32."""
    disagreement: Tensor | None
    """(D, H, W) float32 in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """One configuration's networks, one per fold, whose logits are averaged."""

    plan: Plan
    configuration: Configuration
    dataset: DatasetSpec
    folds: tuple[str, ...]
    networks: tuple[SlabSegmenter, ...]
    """One per fold."""
    device: torch.device
    options: PredictionOptions = field(default_factory=PredictionOptions)

    def __post_init__(self) -> None:
        if self.prompted and self.options.slab_votes:
            raise ConfigError("Slab votes are for models that segment without prompts; leave --slab_votes out.")
        if self.options.uncertainty and len(self.networks) * len(self._flips) < 2:
            raise ConfigError(
                "Uncertainty is how much folds and flips disagree; here is one fold without flips. Allow flips, or give several folds."
            )

    @property
    def prompted(self) -> bool:
        """True where the networks segment what prompts show."""
        return getattr(self.networks[0], "prompts", None) is not None

    @property
    def precision(self) -> torch.dtype | None:
        """Autocast type of the networks; None for fp32."""
        return choose_precision(self.options.precision, self.device)

    @property
    def prompt_planes(self) -> int:
        """Planes of the map that says where structures are shown; 0 without prompts."""
        return len(self.dataset.labels.channels) if self.prompted else 0

    @property
    def score_channels(self) -> int:
        """Volumes of scores: one per class or region, one more for uncertainty; with prompts as many again, but background's, for who had a say."""
        uncertainty = self.options.uncertainty
        return self.dataset.labels.outputs + uncertainty + (self.prompt_planes + uncertainty if self.prompted else 0)

    @property
    def extra_slices(self) -> int:
        """Slices that are added before prediction, on both ends together."""
        return 2 * (self.configuration.patch_size[0] // 2) if self.options.slab_votes else 0

    @property
    def _flips(self) -> tuple[tuple[int, ...], ...]:
        return flips_of(self.configuration.mirror_axes if self.options.flips else ())

    @classmethod
    def from_folder(
        cls,
        folder: Path | str,
        *,
        folds: Sequence[str] | None = None,
        checkpoint: str = FINAL,
        device: str | None = None,
        options: PredictionOptions | None = None,
        weights_folders: Sequence[Path] = (),
        compile: bool = False,
    ) -> Predictor:
        """Load a model folder `<Trainer>__<plans>__<configuration>`.

        Args:
            folds: fold names such as ("0", "1"); None takes every fold that has the checkpoint.
            checkpoint: file name, with or without its ending.
            device: cuda, mps or cpu; None takes the best one present.
            weights_folders: where the frozen weights are looked for when they are not at the plan's path.
            compile: compile the networks with torch.compile; the first tiles take longer.

        Raises:
            CheckpointError: the folder holds no such model, or a fold is not trained.
        """
        folder = Path(folder)
        if not (folder / "plans.json").is_file():
            raise CheckpointError(
                f"Folder {folder} is not a trained model; it has no plans.json. Give a <Trainer>__<plans>__<configuration> folder."
            )
        plan = load_plan(folder / "plans.json")
        refuse_unknown_names(plan, folder / "plans.json")
        dataset = read_dataset_json(folder / "dataset.json")
        file_name = checkpoint_file(checkpoint)
        chosen = tuple(folds) if folds is not None else finished_folds(folder, file_name)
        if not chosen:
            raise CheckpointError(
                f"Model {folder} has no fold with {file_name}; train one first, or name another checkpoint with -chk."
            )
        on = choose_device(device)
        networks = []
        for fold in chosen:
            path = folder / f"fold_{fold}" / file_name
            if not path.is_file():
                raise CheckpointError(
                    f"Fold {fold} of {folder.name} is not trained: {path} does not exist. "
                    f"Folds with that checkpoint: {', '.join(finished_folds(folder, file_name)) or 'none'}."
                )
            stored = load_checkpoint(path, with_optimizer=False)
            configuration = plan.configuration(stored.state.configuration)
            check_frozen_weights(stored.state, configuration, path)
            network = build_network(plan, configuration, dataset.labels, weights_folders)
            load_trainable_state(network, stored.weights, path, pretrained=configuration.weights is not None)
            network.merge()
            share_frozen(network, networks[:1])
            networks.append(network.to(on).eval())
            if compile:
                network.forward = torch.compile(network.forward)  # type: ignore[method-assign]
        return cls(
            plan=plan,
            configuration=configuration,
            dataset=dataset,
            folds=chosen,
            networks=tuple(networks),
            device=on,
            options=options or PredictionOptions(),
        )

    def preprocess(self, volume: Volume) -> PreprocessedCase:
        """Bring a volume to the network's grid; raises PredictionError for a spacing that can only be in another unit."""
        refuse_absurd_spacing(volume.geometry, self.plan)
        return preprocess(volume, None, self.plan, self.configuration)

    def remarks(self, volume: Volume) -> tuple[str, ...]:
        """Say in a sentence each what of a volume lies far from what the model was trained on: orientation, spacing, size, intensities."""
        return (*remarks_on_grid(volume.geometry, self.plan), *remarks_on_intensities(volume.array, self.plan))

    def scores(self, case: PreprocessedCase, folder: Path | None = None, prompts: CasePrompts | None = None) -> Scores:
        """Run the networks over a preprocessed case; logits are averaged over folds and flips.

        Args:
            folder: where a file takes up the scores; None keeps them in memory.
            prompts: of the case, for networks that take them, and only for those.

        Raises:
            ConfigError: the networks take prompts and there are none, or the other way round; or one lies outside the image.
            PredictionError: the device's memory does not hold one tile, or the network gives values that are not finite.
        """
        image, inside = self._padded(self._with_prompts(case, prompts))
        shape = (self.score_channels, *image.shape[1:])
        place: Place = folder or best_place(shape, self.device if self.options.sums_on_device else CPU)
        batch = self.options.tile_batch
        while (total := self._try_to_sum_up(image, shape, place, batch)) is None:
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            if batch > 1:
                batch //= 2
                logger.info("The memory of %s ran out; going on with %d tiles at a time.", self.device, batch)
            elif isinstance(place, torch.device) and place.type != "cpu":
                place = CPU
                logger.info("The memory of %s ran out; going on with sums in RAM.", self.device)
            else:
                patch = " x ".join(map(str, self.configuration.patch_size))
                way_out = (
                    "free it, or keep sums in a file with --max_ram"
                    if self.device.type == "cpu"
                    else "free it, or predict with -device cpu"
                )
                raise PredictionError(
                    f"The memory of {self.device} does not hold one tile of {patch} voxels beside the sums; {way_out}."
                )
        total = crop(total.cpu(), inside)
        if self.prompted:
            total = self._where_shown(total)
        if not all(torch.isfinite(plane.sum()) for plane in total):
            raise PredictionError(
                "The network gave values that are not finite; its weights are damaged, or the image holds extreme values."
            )
        logits = total[: self.dataset.labels.outputs]
        if self.options.slab_votes:
            logits = logits_from(logits, regions=self.dataset.labels.has_regions)
        return Scores(logits=logits, disagreement=total[-1] if self.options.uncertainty else None)

    def working_memory(self) -> int:
        """Measure how many bytes of RAM the networks work with, on tiles of ones; 0 where they run elsewhere or it cannot be told."""
        if self.device.type != "cpu" or sys.platform != "linux":
            return 0
        options = self.options
        tiles = torch.ones(options.tile_batch, len(self.plan.channels), *self.configuration.patch_size)
        if self.prompted:
            shown = torch.zeros(len(tiles), self.prompt_planes, *tiles.shape[2:])
            shown[..., 0, 0] = INSIDE
            tiles = torch.cat([tiles, shown], 1)
        before = start_peak()
        with torch.no_grad():
            held = self._run_tiles(tiles, options.tile_batch)
            self._run_tiles(
                tiles, options.tile_batch
            )  # beside the first: freed pieces are not always where the next ones fit
        del held
        return int((peak_mib() - before) * 2**20)

    def predict(
        self, image: ImageLike, *, probabilities: bool = False, prompts: CasePrompts | None = None
    ) -> Prediction:
        """Segment one image; calls from several threads do not disturb each other.

        Args:
            image: a volume; a file, DICOM folder or list of channel files; a nibabel or SimpleITK image; or (array, spacing).
            probabilities: return them too.
            prompts: for a model that segments what they show, and only for such a model.
        """
        first = image[0] if isinstance(image, Sequence) and not isinstance(image, str) else image
        named = isinstance(first, (str, Path))
        volume = as_volume(image, reader_of_image(Path(first), self.plan.reader) if named else READERS[0])
        if len(volume.array) != len(self.plan.channels):
            raise ShapeError(
                f"The image has {len(volume.array)} channels; the model was trained on {len(self.plan.channels)}."
            )
        case = self.preprocess(volume)
        for remark in self.remarks(volume):
            logger.warning("The image is unlike the training cases: %s.", remark)
        scores, labels = self.scores(case, prompts=prompts), self.dataset.labels
        return Prediction(
            segmentation=segmentation_from_logits(scores.logits, case.history, labels),
            geometry=volume.geometry,
            probabilities=probabilities_from_logits(scores.logits, case.history, labels) if probabilities else None,
            uncertainty=None
            if scores.disagreement is None
            else resize_to_input_grid(scores.disagreement, case.history),
        )

    def predict_many(
        self, images: Iterable[ImageLike], *, probabilities: bool = False, prompts: Iterable[CasePrompts] | None = None
    ) -> Iterator[Prediction]:
        """Segment images one by one, as they are asked for; `prompts` has those of each, for a model that takes them."""
        pairs = zip(images, repeat(None) if prompts is None else prompts, strict=False)
        return (self.predict(image, probabilities=probabilities, prompts=shown) for image, shown in pairs)

    def _with_prompts(self, case: PreprocessedCase, prompts: CasePrompts | None) -> np.ndarray:
        """Return the image, and behind its channels the prompt map where the networks take one."""
        if self.prompted != (prompts is not None):
            raise ConfigError(NO_PROMPTS if self.prompted else USELESS_PROMPTS)
        if prompts is None:
            return case.image
        return np.concatenate([case.image, prompt_map(prompts, self.dataset.labels, case.history)])

    def _where_shown(self, total: Tensor) -> Tensor:
        """Make weighted sums means over the tiles in which a prompt shows the structure, and drop the weights."""
        outputs, uncertainty = self.dataset.labels.outputs, self.options.uncertainty
        scores, shown = total[: outputs + uncertainty], total[outputs + uncertainty :]
        for index, (sums, weight) in enumerate(zip(scores[len(scores) - len(shown) :], shown, strict=True)):
            sums.copy_(torch.where(weight > 0, sums / weight, ABSENT if index < self.prompt_planes else 0.0))
        return scores

    def _padded(self, image: np.ndarray) -> tuple[np.ndarray, Box]:
        """Pad to a tile at least; for slab votes repeat the end slices first, so that the outermost slabs are centered on them."""
        half = self.extra_slices // 2
        if half:
            image = np.pad(image, [(0, 0), (half, half), (0, 0), (0, 0)], mode="edge")
        padded, ((first, last), height, width) = pad_to(image, self.configuration.patch_size)
        return padded, ((first + half, last - half), height, width)

    def _try_to_sum_up(self, image: np.ndarray, shape: tuple[int, ...], place: Place, batch: int) -> Tensor | None:
        """Return the scores of the padded image, or None when memory ran out."""
        try:
            return self._sum_up(torch.from_numpy(image), accumulators(shape, place), batch)
        except RuntimeError as error:
            if is_out_of_memory(error):
                return None
            raise

    def _sum_up(self, image: Tensor, total: Tensor, batch: int) -> Tensor:
        """Fill the accumulators with what `_run_tiles` gives."""
        options, tile = self.options, self.configuration.patch_size
        slab_step = 1 if options.slab_votes else options.slab_step
        depth_step = options.step_size if slab_step is None else min(1.0, slab_step / tile[0])
        return sliding_window(
            lambda tiles: self._run_tiles(tiles, batch),
            image,
            total,
            tile=tile,
            steps=(depth_step, options.step_size, options.step_size),
            tile_batch=max(1, batch // len(self._flips)),
            device=self.device,
            uniform=options.slab_votes,
            progress=lambda batches: bar(batches, title="Tiles", quiet=options.quiet),
        )

    def _run_tiles(self, tiles: Tensor, batch: int) -> Tensor:
        """Return mean logits (or probabilities) over folds and flips, and the disagreement as a channel when it is wanted.

        With prompts, logits are zero in a slice where none shows their structure; channels that are one where one does come last. So it is
        with the disagreement, which counts where any structure is shown.
        """
        precision, channels = self.precision, len(self.plan.channels)

        def run(network: nn.Module, part: Tensor) -> Tensor:
            with autocast(self.device, precision):
                return network(part[:, :channels], part[:, channels:]) if self.prompted else network(part)

        found = combine(
            passes([partial(run, network) for network in self.networks], tiles, self._flips, batch),
            regions=self.dataset.labels.has_regions,
            votes=self.options.slab_votes,
            uncertainty=self.options.uncertainty,
        )
        if not self.prompted:
            return found
        shown = (tiles[:, channels:].to(torch.uint8) & SHOWS > 0).flatten(3).any(3)
        shown = torch.cat([shown, shown.any(1, keepdim=True)], 1) if self.options.uncertainty else shown
        shown = shown[..., None, None].expand(-1, -1, -1, *tiles.shape[3:]).to(found.dtype)
        found[:, found.shape[1] - shown.shape[1] :] *= shown
        return torch.cat([found, shown], 1)


def share_frozen(network: nn.Module, others: Sequence[nn.Module]) -> None:
    """Let a network use the frozen parameters of other ones wherever they are equal, so that folds hold their backbone once."""
    for other in others:
        theirs = dict(other.named_parameters())
        for name, parameter in network.named_parameters():
            if not parameter.requires_grad and torch.equal(parameter, theirs[name].to(parameter.device)):
                parameter.data = theirs[name].data
