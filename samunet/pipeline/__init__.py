"""The arrows between the nouns, and the only place where stages meet.

dataset -> fingerprint -> plan -> preprocessed cases -> checkpoint -> predictions -> scores.

A name loads its module when it is first used: planning and preprocessing start without torch. The names are those of
__init__.pyi.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
