"""What grows, slows down or is not finite in a training is found."""

import math

import pytest
import torch

from mmssm.backbones import SpatialMamba
from tools.reliability import load
from tools.reliability.check import Clock


def lines(memory=lambda n: 100.0, files=lambda n: 9, took=lambda n: 0.1, loss=1.0):
    return [[n, memory(n), files(n), took(n), loss] for n in range(1, 3001)]


def test_a_training_that_stays_as_it_was():
    outcome = load.judged(lines(memory=lambda n: 100.0 + min(n, 900)))
    assert (outcome.tried, outcome.failures) == (3000, [])
    assert outcome.remark.startswith('memory +0.00 MB in 1000 steps')


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'memory': lambda n: n / 50}, 'memory grows by 20.0 MB in 1000 steps'),
        ({'files': lambda n: n // 100}, '20 more files are open in the last third'),
        ({'took': lambda n: 1.0 + n // 1500}, 'steps take 2.00 times as long'),
        ({'loss': math.nan}, 'step 1: the loss is nan'),
    ],
)
def test_what_does_not_stay_is_found(change, words):
    assert load.judged(lines(**change)).failures[0].startswith(words)


def test_too_few_steps():
    outcome = load.judged(lines(memory=lambda n: 9.0 * n)[:200])
    assert outcome == (200, [], 'too short to tell what grows')
    assert load.judged(lines(loss=math.inf)[:9]).failures[0] == (
        'step 1: the loss is inf'
    )


def test_a_training_by_the_command(monkeypatch):
    monkeypatch.setattr(load, 'LEAST', 5)
    outcome = load._train(2, Clock(0), 0, every=4)
    assert outcome == (5, [], 'too short to tell what grows')


@pytest.mark.parametrize('dtype', [None, torch.bfloat16])
def test_steps_of_a_demo_model(dtype):
    assert load._steps('spatialmamba', dtype, Clock(60), 0, most=2) == (2, [], '')


def test_values_that_are_not_finite(monkeypatch):
    plain = SpatialMamba.forward
    monkeypatch.setattr(
        SpatialMamba, 'forward', lambda self, x: [y / 0 for y in plain(self, x)]
    )
    (failure,) = load._steps('spatialmamba', None, Clock(60), 0, most=2).failures
    assert failure.startswith('step 1: loss nan')
