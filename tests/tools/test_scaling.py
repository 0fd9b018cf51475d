"""Several processes train together, and nothing waits for a gradient."""

import pytest
import torch
from torch import Tensor, nn

from tools.benchmarks import scaling
from tools.benchmarks.case import Case, Prepared


def test_a_ring_sends_nearly_twice_the_gradients():
    assert scaling.sent_bytes(1000, 2) == 4000
    assert scaling.sent_bytes(1000, 4) == 6000
    *_, line = scaling.table(1000, [4], scaling.Seconds(3.0, 2.0), bandwidth=2000)
    assert line == '| 4 | 0.0 | 3000.00 | 3000 | 50.0 % | 75.0 % |'


def test_two_processes_train():
    text = ['--size', '32x32', '--batch', '2', '--repeats', '1']
    args = scaling.parse(text)
    args.arch = {'channels': 16, 'depths': (1, 1, 1, 1)}
    exchanged, step = scaling.together(2, args)
    assert 0 < exchanged < float('inf')
    assert 0 < step < float('inf')


@pytest.mark.parametrize(
    'name',
    [
        'detectors/mask-rcnn_spatialmamba-t_fpn_1x_coco',
        'detectors/mask-rcnn_vmamba-t_fpn_1x_coco',
        'segmentors/vminet-ti_fpn_4xb4-80k_ade20k-512x512',
        'segmentors/swin-t-ssm2d_upernet_4xb4-160k_ade20k-512x512',
    ],
)
def test_no_parameter_waits_for_a_gradient(name):
    assert scaling.unused_parameters(name) == []


def test_a_parameter_without_a_gradient_is_named(monkeypatch):
    class Idle(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight

    model = Idle(2, 2)
    work = lambda: model(torch.ones(1, 2)).sum().backward()  # noqa: E731
    case = Case('detectors/idle', lambda setting: Prepared(work, model))
    monkeypatch.setattr(scaling, 'registry', lambda groups: {'detectors/idle': case})
    assert scaling.unused_parameters('detectors/idle') == ['bias']
    assert scaling.report_unused(['idle']) == 1
