"""What every backbone of the package promises."""

import copy

import pytest
import torch
from parity import assert_equal_in_double
from torch.nn.modules.batchnorm import _BatchNorm

from mmssm import backbones
from mmssm.registry import MODELS

SMALL = {
    'ConvNeXt': {'channels': 8, 'depths': (1, 2, 1, 1)},
    'Mega': {
        'channels': (8, 8, 8, 8),
        'depths': (1, 2, 1, 1),
        'patch': 16,
        'shared': 4,
        'expanded': 16,
        'hidden': 16,
    },
    'MILA': {'channels': 8, 'depths': (1, 2, 1, 1), 'heads': 1},
    'SpatialMamba': {'channels': 8, 'depths': (1, 2, 1, 1)},
    'VMINet': {'channels': 8, 'depths': (1, 2, 1, 1), 'expand': 2},
    'VMamba': {'channels': 8, 'depths': (1, 2, 1, 1), 'expand': 2},
}
NAMES = sorted(SMALL)
WITHOUT_BATCH_NORM = ('ConvNeXt', 'Mega', 'VMamba')


def build(name, **options):
    torch.manual_seed(0)
    return MODELS.build({'type': f'mmssm.{name}', 'arch': SMALL[name], **options})


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def test_every_backbone_is_tested_here():
    registered = {
        c.__name__
        for c in MODELS.module_dict.values()
        if isinstance(c, type) and issubclass(c, backbones.HierarchicalBackbone)
    }
    assert registered == set(NAMES)


@pytest.mark.parametrize('size', [(64, 64), (65, 97), (33, 18), (32, 200)])
def test_contract_of_channels_and_strides(name, size):
    model = build(name).eval()
    with torch.no_grad():
        outputs = model(torch.randn(2, 3, *size))
    assert len(outputs) == len(model.channels) == 4
    assert model.strides == (4, 8, 16, 32)
    for y, channels, stride in zip(outputs, model.channels, model.strides, strict=True):
        assert y.shape == (2, channels, *(-(-s // stride) for s in size))
        assert y.is_contiguous()


@pytest.mark.parametrize('size', [(1, 1), (1, 7), (3, 40)])
def test_tiny_inputs_pass(name, size):
    with torch.no_grad():
        outputs = build(name).eval()(torch.randn(1, 3, *size))
    assert all(y.isfinite().all() for y in outputs)


@pytest.mark.parametrize('indices', [(3,), (1, 2), (-1,), (0, -2)])
def test_out_indices_choose_outputs_and_leave_nothing_unused(name, indices):
    model, full = build(name, out_indices=indices), build(name)
    full.load_state_dict(model.state_dict(), strict=False)
    x = torch.randn(2, 3, 64, 96)
    model.eval(), full.eval()
    outputs, expected = model(x), full(x)
    chosen = [i % 4 for i in indices]
    assert model.out_indices == tuple(chosen)
    assert model.channels == tuple(full.channels[i] for i in chosen)
    assert model.strides == tuple(full.strides[i] for i in chosen)
    for y, i in zip(outputs, chosen, strict=True):
        assert torch.equal(y, expected[i])
    model.train()
    sum(y.square().sum() for y in model(x)).backward()
    unused = [n for n, p in model.named_parameters() if p.grad is None]
    assert unused == []


@pytest.mark.parametrize('indices', [(), (4,), (0, -5), (2, 1), (3, -1)])
def test_bad_out_indices_are_named(name, indices):
    with pytest.raises(ValueError, match='out_indices is'):
        build(name, out_indices=indices)


@pytest.mark.parametrize('stages', range(-1, 5))
def test_frozen_stages_stay_as_they_are(name, stages):
    model = build(name, frozen_stages=stages).train()
    for part, frozen in [('stem', stages >= 0)] + [
        (f'stages.{i}', stages > i) for i in range(4)
    ]:
        module = model.get_submodule(part)
        assert all(p.requires_grad != frozen for p in module.parameters()), part
        assert all(m.training != frozen for m in module.modules()), part


def test_output_norms_of_frozen_stages_are_frozen(name):
    model = build(name, frozen_stages=2)
    for again in (False, True):  # as built, and after train()
        for index, norm in model.out_norms.items():
            frozen = int(index) < 2
            assert all(p.requires_grad != frozen for p in norm.parameters()), index
            assert norm.training or not again or frozen
        model.train()


@pytest.mark.parametrize('stages', [-2, 5])
def test_bad_frozen_stages_are_named(name, stages):
    with pytest.raises(ValueError, match=f'frozen_stages is {stages}'):
        build(name, frozen_stages=stages)


def test_norm_eval_keeps_batch_norms_in_evaluation(name):
    model = build(name, norm_eval=True).train()
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    assert bool(norms) == (name not in WITHOUT_BATCH_NORM)
    assert not any(m.training for m in norms)
    assert model.training


def test_activation_checkpointing_changes_nothing(name):
    x = torch.randn(2, 3, 40, 56, dtype=torch.float64)
    results = []
    for with_cp in (False, True):
        model = build(name, with_cp=with_cp, drop_path_rate=0.3).double().train()
        torch.manual_seed(1)
        loss = sum(y.square().sum() for y in model(x))
        loss.backward()
        results.append((loss, dict(model.named_parameters()), model.state_dict()))
    (loss, parameters, buffers), (loss_cp, parameters_cp, buffers_cp) = results
    assert torch.equal(loss, loss_cp)
    for key, parameter in parameters.items():
        assert_equal_in_double(parameters_cp[key].grad, parameter.grad, key)
    for key, value in buffers.items():
        assert torch.equal(value, buffers_cp[key]), key


def test_evaluate_train_and_evaluate_again_equals_a_fresh_process(name):
    model, x = build(name), torch.randn(2, 3, 48, 64)
    with torch.no_grad():
        before = model.eval()(x)
    sum(y.square().mean() for y in model.train()(x)).backward()
    torch.optim.SGD(model.parameters(), lr=0.05).step()
    with torch.no_grad():
        after = model.eval()(x)
        fresh = build(name)
        fresh.load_state_dict(model.state_dict())
        for y, expected in zip(after, fresh.eval()(x), strict=True):
            assert torch.equal(y, expected)
        for y, expected in zip(after, copy.deepcopy(model)(x), strict=True):
            assert torch.equal(y, expected)
    assert not torch.equal(before[-1], after[-1])


def test_a_sample_does_not_see_its_batch(name):
    model, x = build(name).double().eval(), torch.randn(3, 3, 40, 56).double()
    with torch.no_grad():
        together = model(x)
        alone = model(x[1:2])
    for y, expected in zip(alone, together, strict=True):
        assert_equal_in_double(y, expected[1:2])


def test_bfloat16_autocast_is_finite_forward_and_backward(name):
    model = build(name).train()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = sum(y.float().square().mean() for y in model(torch.randn(2, 3, 64, 48)))
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    'shape', [(3, 8, 8), (1, 4, 8, 8), (1, 3, 0, 8), (1, 3, 8, 8, 8)]
)
def test_bad_input_is_named(name, shape):
    with pytest.raises(ValueError, match=r'expected \(B, 3, H, W\)'):
        build(name)(torch.zeros(shape))


def test_unknown_arch_names_the_known(name):
    with pytest.raises(ValueError, match="arch is 'huge'; expected one of"):
        MODELS.build({'type': f'mmssm.{name}', 'arch': 'huge'})


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'depths': (1, 1, 0, 1)}, r'depths=\(1, 1, 0, 1\)'),
        ({'depths': 4}, 'depths=4'),
        ({'channels': (8, 16)}, '4 depths .* 2 channels'),
        ({'channels': -8}, 'positive integers'),
        ({'width': 3}, "keys .*'channels'"),
    ],
)
def test_malformed_arch_is_named(name, change, words):
    with pytest.raises(ValueError, match=words):
        MODELS.build({'type': f'mmssm.{name}', 'arch': {**SMALL[name], **change}})


def test_unknown_option_is_named(name):
    with pytest.raises(TypeError, match='depth_multiplier'):
        build(name, depth_multiplier=2)


def test_layers_are_numbered_from_stem_to_output(name):
    model = build(name)
    ids = {n: model.layer_id(n) for n, _ in model.named_parameters()}
    assert set(ids.values()) <= set(range(model.num_layers))
    assert {i for n, i in ids.items() if n.startswith('stem')} == {0}
    assert model.num_layers == 5 + 2
    stage1 = {i for n, i in ids.items() if n.startswith('stages.1')}
    assert stage1 == {2, 3}
    with pytest.raises(KeyError):
        model.layer_id('stages.9.blocks.0.weight')
