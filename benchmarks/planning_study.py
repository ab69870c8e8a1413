"""Vary what the plan decides and train every choice for equal minutes.

    python benchmarks/planning_study.py planning            # two single-thread jobs side by side
    python benchmarks/planning_study.py rules               # writes two phantoms into nnUNet_raw first

"planning": the encoder grid and the slab depth, one at a time; the planner's rules for the token pitch and the slab
depth rest on this. "rules": on structures that are thin or fall into specks, the plan of the first rule, whose tokens
were at most twice as wide as the median piece whatever that cost the patch, against today's, at the same memory.
Trained, predicted and scored as benchmarks/study.py says; results go to benchmarks/results/study_<name>.json.
"""

from __future__ import annotations

import sys
from typing import Any

from phantoms import write_phantoms
from study import HIPPOCAMPUS, Row, main

from samunet.core.geometry import Shape
from samunet.core.workspace import workspace_from_environment
from samunet.planning.planners.default import MAX_WIDTH
from samunet.planning.topology import topology_for
from samunet.sam.backbones import TOKEN_PIXELS

MINUTES, RULE_MINUTES = 6.0, 10.0
# Coarse, or too few steps fit the minutes to tell anything.
PROSTATE: dict[str, Any] = {"dataset": 35, "spacing": (3.0, 2.5, 2.5)}
NUCLEI: dict[str, Any] = {"dataset": 45, "configuration": "2d_adapter"}
VESSELS: dict[str, Any] = {"dataset": 901, "configuration": "2d_adapter", "memory_gib": 2.0}
LESIONS: dict[str, Any] = {"dataset": 902, "configuration": "3d_adapter", "memory_gib": 2.0}


def pitch_row(data: dict[str, Any], pitch: int) -> Row:
    """A token every `pitch` voxels."""
    return Row(name=f"token pitch {pitch}", minutes=MINUTES, changes={"encoder_scale": TOKEN_PIXELS / pitch}, **data)


def depth_row(data: dict[str, Any], patch: tuple[int, int, int]) -> Row:
    """A slab of fewer slices."""
    return Row(name=f"slab depth {patch[0]}", minutes=MINUTES, changes={"patch_size": patch}, **data)


def first_rule(data: dict[str, Any], patch: Shape, pitch: int) -> Row:
    """What the first rule planned."""
    topology, padded = topology_for(
        patch, (1.0, 1.0, 1.0), base_width=24, max_width=MAX_WIDTH[2 if patch[0] == 1 else 3]
    )
    changes = {"patch_size": padded, "topology": topology, "encoder_scale": TOKEN_PIXELS / pitch}
    return Row(name="first rule", minutes=RULE_MINUTES, changes=changes, **data)


STUDIES = {
    "planning": (
        pitch_row(HIPPOCAMPUS, 8),  # half of it is a row of the study of sam_unet
        *(depth_row(HIPPOCAMPUS, (depth, 56, 40)) for depth in (16, 8)),
        *(pitch_row(PROSTATE, pitch) for pitch in (16, 8)),
        *(depth_row(PROSTATE, (depth, 80, 80)) for depth in (12, 4)),
        *(pitch_row(NUCLEI, pitch) for pitch in (16, 8)),
    ),
    "rules": (
        first_rule(VESSELS, (1, 96, 128), 2),
        Row(name="today's rule", minutes=RULE_MINUTES, **VESSELS),
        first_rule(LESIONS, (20, 40, 48), 2),
        Row(name="today's rule", minutes=RULE_MINUTES, **LESIONS),
    ),
}

if __name__ == "__main__":
    if "rules" in sys.argv:
        write_phantoms(workspace_from_environment().raw)
    main(STUDIES, __doc__)
