"""Vary the encoder grid and the slab depth of the plan, one at a time, and train every choice for equal minutes.

    python benchmarks/planning_study.py planning            # two single-thread jobs side by side

The planner's rules for the token pitch and the slab depth rest on this. Trained, predicted and scored as benchmarks/study.py says;
results go to benchmarks/results/study_planning.json.
"""

from __future__ import annotations

from typing import Any

from study import HIPPOCAMPUS, Row, main

from samunet.sam.backbones import TOKEN_PIXELS

MINUTES = 6.0
PROSTATE: dict[str, Any] = {"dataset": 35, "spacing": (3.0, 2.5, 2.5)}  # coarse, or too few steps fit the minutes to tell anything
NUCLEI: dict[str, Any] = {"dataset": 45, "configuration": "2d_adapter"}


def pitch_row(data: dict[str, Any], pitch: int) -> Row:
    """A token every `pitch` voxels."""
    return Row(name=f"token pitch {pitch}", minutes=MINUTES, changes={"encoder_scale": TOKEN_PIXELS / pitch}, **data)


def depth_row(data: dict[str, Any], patch: tuple[int, int, int]) -> Row:
    """A slab of fewer slices."""
    return Row(name=f"slab depth {patch[0]}", minutes=MINUTES, changes={"patch_size": patch}, **data)


STUDIES = {
    "planning": (
        pitch_row(HIPPOCAMPUS, 8),  # half of it is a row of the study of sam_unet
        *(depth_row(HIPPOCAMPUS, (depth, 56, 40)) for depth in (16, 8)),
        *(pitch_row(PROSTATE, pitch) for pitch in (16, 8)),
        *(depth_row(PROSTATE, (depth, 80, 80)) for depth in (12, 4)),
        *(pitch_row(NUCLEI, pitch) for pitch in (16, 8)),
    )
}

if __name__ == "__main__":
    main(STUDIES, __doc__)
