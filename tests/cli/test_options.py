"""Defaults that the command line shows are those of the functions it calls."""

from __future__ import annotations

import argparse

from samunet.cli import compare, predict
from samunet.cli.fields import add_options, options_from
from samunet.comparison.head_to_head import Settings
from samunet.core.results import checkpoint_file
from samunet.inference.load import FINAL
from samunet.inference.options import FileOptions


def parsed(kind, *words):
    parser = argparse.ArgumentParser()
    add_options(parser, kind)
    return options_from(parser.parse_args(words), kind)


def test_prediction_reads_and_writes_as_from_python():
    options, files = parsed(predict.Predicting, "-i", "images", "-o", "folder"), FileOptions()
    assert (options.max_ram, options.save_probabilities) == (files.max_ram, files.save_probabilities)
    assert checkpoint_file(options.checkpoint) == FINAL


def test_comparing_trains_as_from_python():
    options = parsed(compare.Training)
    expected = Settings(configurations=("3d_adapter",), folds=("0", "1", "2", "3", "4"), match="none")
    assert options.settings() == expected
