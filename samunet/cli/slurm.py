"""A SLURM script for a training that goes on after every time limit."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from samunet.cli.train import Options

MARGIN_HOURS = 0.25  # before the time limit, for the last step and its checkpoint
LIMIT_HOURS = 24.0
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
CORES_A_GPU = 8

SCRIPT = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes=1
#SBATCH --gpus-per-node={gpus}
#SBATCH --cpus-per-task={cores}
#SBATCH --mem=64G
#SBATCH --time={limit}
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append

{exports}

# --c starts from the beginning where there is nothing to continue.
# SIGTERM ends the training after its step, with everything saved.
samunet_train {words} > >(tee {log}) 2>&1 &
training=$!
trap 'kill -TERM "$training"' TERM
wait "$training"; code=$?
if [ $code -gt 128 ]; then wait "$training"; code=$?; fi  # the first wait ends with the signal
sleep 2  # tee writes the last line
# 143: the signal came in the validation, which --c begins again.
if [ $code -eq 143 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt 20 ] || grep -q "^Stopped, nothing is lost" {log}; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit $code"""


def script(options: Options, typed: Sequence[str]) -> str:
    """Return a batch script for the command that was typed, without --slurm.

    The job stops itself before its time limit with everything saved, and puts itself back into the queue until the fold
    is finished.
    """
    hours = options.run.get("max_hours") or LIMIT_HOURS - MARGIN_HOURS
    words = [word for word in typed if word != "--c"] + (
        [] if "max_hours" in options.run else ["--max_hours", f"{hours:g}"]
    )
    name = f"{options.dataset}-{options.training.configuration}-{options.training.fold}"
    minutes = round((hours + MARGIN_HOURS) * 60)
    return SCRIPT.format(
        name=shlex.quote(name),
        gpus=max(1, options.gpus),
        cores=CORES_A_GPU * max(1, options.gpus),
        limit=f"{minutes // 60:02d}:{minutes % 60:02d}:00",
        exports="\n".join(
            f"export {folder}={shlex.quote(os.environ.get(folder, f'/path/to/{folder}'))}" for folder in FOLDERS
        ),
        words=shlex.join([*words, "--c"]),
        log=shlex.quote(f"slurm-{name}.log"),
    )
