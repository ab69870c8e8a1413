"""One module, or one folder where it is larger, a published way of adapting SAM.

Each has METHOD, a `samunet.variants.method.Method`; its name is the method's in plans, checkpoints and commands. In a
folder `rules` is what planning needs and knows no torch; the other modules are the network. See
documentation/reference/variants.md.
"""

import sys
from types import ModuleType

from samunet.core.plugins import variant_names


class _Room(ModuleType):
    """This package, which a program may also call: once imported it stands where `samunet.variants` does."""

    def __call__(self) -> tuple[str, ...]:
        return variant_names()


sys.modules[__name__].__class__ = _Room
