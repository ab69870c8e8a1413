"""A loss or a gradient that is not a number ends a training before it reaches a weight."""

from __future__ import annotations

import math

from samunet.checkpoints.file import save_tensors
from samunet.core.batch import Batch
from samunet.errors import CheckpointError, SamunetError
from samunet.training.processes import Processes
from samunet.training.run import Sources
from samunet.training.state import TrainingState


def refuse_not_finite(
    loss: float, norm: float, batch: Batch, *, state: TrainingState, sources: Sources, processes: Processes
) -> None:
    """Raise SamunetError at a loss or a gradient's norm that is not finite, and keep the batch.

    A gradient scaler meets such norms as a matter of course and skips their steps.
    """
    if math.isfinite(loss) and (math.isfinite(norm) or state.scaler.is_enabled()):
        return
    what = f"loss became {loss}" if not math.isfinite(loss) else f"gradient's norm became {norm}"
    step, folder = state.step, state.run.folder
    process = f"_process_{processes.rank}" if processes.count > 1 else ""
    path = folder / f"not_finite_step_{step}{process}.safetensors"
    try:
        save_tensors(path, {"image": batch.image, "label": batch.label})
        left = f"; its batch is in {path}"
    except CheckpointError:
        left = ""
    raise SamunetError(
        f"The training {what} in step {step} (epoch {state.epoch + 1}), on cases "
        f"{', '.join(sources.cases(step))}{left}. "
        f"Lower --learning_rate or use --precision fp32; checkpoints in {folder} are from before."
    )
