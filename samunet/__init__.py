"""samunet: self-configuring Segment Anything in nnU-Net's folders and commands."""

__version__ = "0.1.0"
