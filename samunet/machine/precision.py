"""The number formats that a training or a prediction may be asked for; needs no torch."""

PRECISIONS = ("auto", "bf16", "fp16", "fp32")
"""By name; what auto comes to, `samunet.machine.hardware.choose_precision` says."""
