"""A predictor of the tiny dataset's model, without flips."""

from __future__ import annotations

import pytest

from samunet.inference.load import load_predictor
from samunet.inference.predictor import PredictionOptions, Predictor


@pytest.fixture(scope="module")
def predictor(trained) -> Predictor:
    return load_predictor(trained.parent, device="cpu", options=PredictionOptions(flips=False, quiet=True))
