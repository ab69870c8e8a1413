"""AutoSAM: a network of its own makes SAM's dense prompt from the image; SAM stays frozen, but for tokens of the classes.

The network is the plan's U-Net as far as the tokens' grid, so that slices meet in it. See
documentation/methods/autosam.md.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from samunet.core.plan import Topology
from samunet.errors import ConfigError
from samunet.models.rules import WITHOUT_PROMPTS, EncoderOptions, preferred, step_gib
from samunet.models.spec import NetworkSpec
from samunet.sam.backbones import TOKEN_PIXELS, Backbone
from samunet.variants.method import Method

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

    from samunet.models.segmenter import SlabSegmenter
