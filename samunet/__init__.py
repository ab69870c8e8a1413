"""samunet: self-configuring Segment Anything in nnU-Net's folders and commands.

    plan = samunet.plan(17)
    samunet.preprocess(17, "3d_adapter")
    model = samunet.load(samunet.train(17, "3d_adapter", minutes=60).parent)
    model.predict("image.nii.gz").save("segmentation.nii.gz")

A name loads its module when it is first used. The names are those of __init__.pyi.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
