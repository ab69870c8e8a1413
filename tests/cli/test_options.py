"""Defaults that the command line shows are those of the functions it calls."""

from __future__ import annotations

import argparse

from samunet.cli import compare, predict, simulate_prompts
from samunet.cli.fields import add_options, options_from
from samunet.comparison.head_to_head import Settings
from samunet.core.results import checkpoint_file
from samunet.inference.load import FINAL
from samunet.pipeline import FileOptions
from samunet.pipeline.simulated_prompts import Clicking


def parsed(kind, *words):
    parser = argparse.ArgumentParser()
    add_options(parser, kind)
    return options_from(parser.parse_args(words), kind)


def test_prediction_reads_and_writes_as_from_python():
    options, files = parsed(predict.Predicting, "-i", "images", "-o", "folder"), FileOptions()
    assert (options.readers, options.writers, options.max_ram) == (files.readers, files.writers, files.max_ram)
    assert options.save_probabilities == files.save_probabilities and checkpoint_file(options.checkpoint) == FINAL


def test_simulated_prompts_are_those_of_python():
    options, clicking = parsed(simulate_prompts.Options, "references", "-djfile", "file", "-o", "file"), Clicking()
    assert (options.relaxation, options.axis, options.seed) == (clicking.relaxation, clicking.axis, clicking.seed)
    assert clicking.points == 1 and options.points is None


def test_comparing_trains_as_from_python():
    options = parsed(compare.Training)
    expected = Settings(configurations=("3d_adapter",), folds=("0", "1", "2", "3", "4"), match="none")
    assert options.settings() == expected
