"""The learning rate over the steps of a training."""

from __future__ import annotations


def rate_factor(step: int, steps: int, *, warmup: float, power: float) -> float:
    """Return the factor on the peak learning rate for a step.

    Args:
        step: 0 for the first step.
        steps: steps of the whole training.
        warmup: share of steps with a linear rise from near zero.
        power: exponent of the polynomial decay, which reaches zero after the last step.

    Returns:
        A number in (0, 1] for 0 <= step < steps.
    """
    rising = round(steps * warmup)
    if step < rising:
        return (step + 1) / rising
    return (1 - (step - rising) / max(1, steps - rising)) ** power
