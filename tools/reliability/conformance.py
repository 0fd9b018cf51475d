"""Every backbone in the stock frameworks: loss, gradients and predictions."""

import copy
import importlib.util
import logging
import random
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import MessageHub
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from torch import Tensor, nn

import mmssm.registry  # noqa: F401 (registers the backbones)
from tools.reliability.check import Check, Clock, Outcome
from tools.reliability.stock import CONFIGS, fitted, model_of

STAGES = {'channels': (8, 16, 24, 32), 'depths': (1, 1, 1, 1)}
MEGA = {
    **{'channels': (8,) * 4, 'depths': (1, 1, 1, 1), 'patch': 16},
    **{'shared': 4, 'expanded': 16, 'hidden': 16},
}
SWIN = {
    **{'type': 'mmdet.SwinTransformer', 'embed_dims': 8, 'window_size': 4},
    **{'depths': (1, 1, 1, 1), 'num_heads': (1, 1, 2, 2)},
}
# Channels of the four levels, and what makes them
BACKBONES: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    'SpatialMamba': ((8, 16, 24, 32), {'arch': STAGES}),
    'VMINet': ((8, 16, 24, 32), {'arch': {**STAGES, 'expand': 2}}),
    'VMamba': ((8, 16, 24, 32), {'arch': {**STAGES, 'expand': 1}}),
    'MILA': ((8, 16, 24, 32), {'arch': {**STAGES, 'heads': 2}}),
    'ConvNeXt': ((8, 16, 24, 32), {'arch': STAGES}),
    'Mega': ((8, 8, 8, 8), {'arch': MEGA}),
    'SSM2DHost': ((8, 16, 32, 64), {'host': SWIN}),
}
REFERENCE = 'ResNet'
# Heights and widths of a batch of two
SIZES = {'even': ((64, 96), (64, 64)), 'odd': ((65, 91), (51, 70))}


class Found(NamedTuple):
    """What a framework did with a backbone: an error, parameters without gradient."""

    error: str
    without: frozenset[str] = frozenset()


def checks() -> list[Check]:
    """One for each package."""
    return [
        Check(
            'Frameworks',
            f'{len(names)} of {package}, 7 backbones',
            partial(_every, package),
            len(names) * len(BACKBONES),
            len(names),
        )
        for package, names in CONFIGS.items()
    ]


def _every(package: str, clock: Clock, seed: int) -> Outcome:
    """Every framework with every backbone, in an order of its own for each seed."""
    if not importlib.util.find_spec(package):
        return Outcome(0, [], f'{package} is not installed')
    cases = [(name, b) for name in CONFIGS[package] for b in BACKBONES]
    random.Random(seed).shuffle(cases)
    failures, excused, tried = [], set(), 0
    for number in clock.counts(len(cases)):
        name, backbone = cases[number]
        for size in SIZES:
            fault = examine(package, name, backbone, size)
            if fault and examine(package, name, REFERENCE, size):
                excused.add(f'{name} ({size})')
            elif fault:
                failures.append(f'{name}, {backbone}, {size}: {fault}')
        tried += 1
    remark = f'with {REFERENCE} neither: {", ".join(sorted(excused))}'
    return Outcome(tried, failures, remark if excused else '')


def examine(package: str, name: str, backbone: str, size: str) -> str:
    """What is wrong; '' when nothing is."""
    found = run(package, name, backbone, size)
    if found.error or not found.without:
        return found.error
    # a head may leave out what this batch does not need
    without = found.without - run(package, name, REFERENCE, size).without
    if backbone == REFERENCE or not without:
        return ''
    return f'no gradient for {", ".join(sorted(without)[:5])}'


def run(package: str, name: str, backbone: str, size: str) -> Found:
    """Build, train a step, predict."""
    if backbone == REFERENCE:
        return _reference(package, name, size)
    channels, options = BACKBONES[backbone]

    def make(levels: Sequence[int]) -> dict[str, Any]:
        found = {'type': f'mmssm.{backbone}', **copy.deepcopy(options)}
        found.get('host', found)['out_indices'] = levels
        return found

    return _tried(package, fitted(model_of(package, name), make, channels), size)


@cache
def _reference(package: str, name: str, size: str) -> Found:
    """The same framework on a ResNet."""
    scope = 'mmseg' if package == 'mmseg' else 'mmdet'

    def make(levels: Sequence[int]) -> dict[str, Any]:
        kind = {'type': f'{scope}.ResNet', 'depth': 18, 'base_channels': 8}
        return {**kind, 'out_indices': levels}

    return _tried(package, fitted(model_of(package, name), make, (8, 16, 32, 64)), size)


def _tried(package: str, model: dict[str, Any], size: str) -> Found:
    with _quiet(), DefaultScope.overwrite_default_scope(package):
        try:
            return Found('', _pass(package, model, size))
        except Exception as error:  # noqa: BLE001 (whatever it is, it is told)
            text = re.sub(r'\s+', ' ', str(error))[:300]
            return Found(f'{type(error).__name__}: {text}')


def _pass(package: str, model: dict[str, Any], size: str) -> frozenset[str]:
    """A step and a prediction; the names of parameters without gradient."""
    torch.manual_seed(0)
    np.random.seed(0)
    import_module(f'{package}.models')
    network = import_module(f'{package}.registry').MODELS.build(
        ConfigDict(_for_size(model, package, size))
    )
    network.init_weights()
    MessageHub.get_current_instance().update_info('epoch', 0)  # TOOD asks for it
    batch = _batch(package, model, SIZES[size])
    data = network.data_preprocessor(copy.deepcopy(batch), True)
    loss, _ = network.parse_losses(network(**data, mode='loss'))
    assert loss.isfinite(), f'the loss is {loss.item()}'
    loss.backward()
    without = _without_gradient(network)
    network.eval()
    with torch.no_grad():
        data = network.data_preprocessor(copy.deepcopy(batch), False)
        found = network(**data, mode='predict')
    for sample, shape in zip(found, SIZES[size], strict=True):
        _look(sample, shape if package != 'mmseg' else SIZES[size][0])
    return without


def _for_size(model: dict[str, Any], package: str, size: str) -> dict[str, Any]:
    """At odd sizes nothing is padded to a multiple."""
    prepared = dict(model['data_preprocessor'])
    if package == 'mmseg':
        prepared['size'] = SIZES[size][0]
    if size == 'odd':
        prepared.pop('pad_size_divisor', None)
        prepared.pop('test_cfg', None)
    return {**model, 'data_preprocessor': prepared}


def _without_gradient(network: nn.Module) -> frozenset[str]:
    trained = {n: p for n, p in network.named_parameters() if p.requires_grad}
    without = {n for n, p in trained.items() if p.grad is None}
    wrong = [
        n
        for n, p in trained.items()
        if n not in without and not p.grad.isfinite().all()
    ]
    assert not wrong, f'the gradient of {", ".join(wrong[:5])} is not finite'
    body = [
        p.grad.abs().max()
        for n, p in trained.items()
        if n.startswith('backbone.') and n not in without
    ]
    assert not body or max(body) > 0, 'all gradients of the backbone are zero'
    return frozenset(without)


def _batch(
    package: str, model: dict[str, Any], sizes: Sequence[tuple[int, int]]
) -> dict[str, Any]:
    """By the test utilities of mmdet and mmrotate; mmseg installs none."""
    if package == 'mmseg':
        return _segmented(sizes[0])
    make = import_module(f'{package}.testing').demo_mm_inputs
    fusion = model.get('panoptic_fusion_head', {})
    things, stuff = (
        fusion.get('num_things_classes', 15),
        fusion.get('num_stuff_classes'),
    )
    batch = make(
        2,
        image_shapes=[(3, *size) for size in sizes],
        num_items=[3, 2],
        num_classes=things,
        with_mask=model['data_preprocessor'].get('pad_mask', False),
        use_box_type=package == 'mmrotate',
    )
    for sample, size in zip(batch['data_samples'], sizes, strict=True):
        if stuff:
            labels = _blocks(size, things, things + stuff)
            sample.gt_sem_seg = PixelData(sem_seg=labels)
    return batch


def _segmented(size: tuple[int, int]) -> dict[str, Any]:
    from mmseg.structures import SegDataSample

    samples = []
    for _ in range(2):
        labels = _blocks(size, 0, 150)
        labels[:, :3] = 255
        about = {'img_shape': size, 'ori_shape': size, 'pad_shape': size}
        sample = SegDataSample(metainfo={**about, 'scale_factor': 1.0, 'flip': False})
        sample.gt_sem_seg = PixelData(data=labels)
        samples.append(sample)
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for _ in samples]
    return {'inputs': images, 'data_samples': samples}


def _blocks(size: tuple[int, int], first: int, end: int) -> Tensor:
    """(1, H, W): classes in squares, as they stand in pictures."""
    height, width = size
    small = torch.randint(first, end, (1, -(-height // 32), -(-width // 32)))
    wide = small.repeat_interleave(32, 1).repeat_interleave(32, 2)
    return wide[:, :height, :width].contiguous()


def _look(sample: Any, shape: tuple[int, int]) -> None:
    """Predictions are finite and as large as their picture; there may be none."""
    found = 0
    for name in ('pred_instances', 'pred_panoptic_seg', 'pred_sem_seg', 'seg_logits'):
        part = sample.get(name)
        for key, value in part.items() if part is not None else ():
            value = torch.as_tensor(getattr(value, 'tensor', value))
            kind = f'{name}.{key}'
            assert value.isfinite().all(), f'{kind} is not finite'
            if key in ('masks', 'sem_seg', 'data'):
                assert value.shape[-2:] == shape, f'{kind} is {tuple(value.shape)}'
            found += 1
    assert found, f'no part for predictions: {sample.keys()}'


@contextmanager
def _quiet() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(before)
