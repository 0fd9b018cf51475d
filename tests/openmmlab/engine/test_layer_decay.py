"""Learning rates and weight decays, by layer, for any backbone on the contract."""

import pytest
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from torch import nn

import mmssm.openmmlab.engine  # noqa: F401 (registers the constructor)
from mmssm.backbones import SpatialMamba, VMamba
from mmssm.hosts import SSM2DHost

LR, DECAY = 0.5, 0.25


class Model(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(2, 2)


def groups(model, **paramwise):
    cfg = dict(
        constructor='mmssm.LayerDecayOptimizerConstructor',
        optimizer=dict(type='AdamW', lr=LR, weight_decay=DECAY),
        paramwise_cfg=paramwise,
    )
    built = build_optim_wrapper(model, cfg).optimizer.param_groups
    names = {id(value): name for name, value in model.named_parameters()}
    return {names[id(group['params'][0])]: group for group in built}


@pytest.fixture(scope='module')
def model():
    return Model(SpatialMamba(arch=dict(channels=4, depths=(1, 2, 1, 1))))


def test_rates_fall_towards_the_stem(model):
    found = groups(model, decay_rate=0.5)
    assert set(found) == dict(model.named_parameters()).keys()
    powers = {
        'head.weight': 0,
        'backbone.out_norms.0.weight': 0,
        'backbone.stages.3.blocks.0.norm1.weight': 1,
        'backbone.stages.1.blocks.1.norm1.weight': 3,
        'backbone.stages.1.blocks.0.norm1.weight': 4,
        'backbone.stages.0.blocks.0.norm1.weight': 5,
    }
    for name, power in powers.items():
        assert found[name]['lr'] == LR * 0.5**power, name
    stem = {g['lr'] for n, g in found.items() if n.startswith('backbone.stem.')}
    assert stem == {LR * 0.5**6}


def test_rate_one_changes_nothing(model):
    found = groups(model, decay_rate=1)
    assert {(g['lr'], g['weight_decay']) for g in found.values()} == {(LR, DECAY)}


def test_decay_options(model):
    ssm = 'backbone.stages.0.blocks.0.ssm'
    found = groups(model, decay_rate=0.5, flat_decay_mult=0.0)
    undecayed = {name for name, group in found.items() if group['weight_decay'] == 0}
    assert undecayed == {n for n, p in model.named_parameters() if p.ndim == 1}
    found = groups(model, decay_rate=0.5, ssm_decay_mult=0.0)
    undecayed = {n for n, g in found.items() if g['weight_decay'] == 0 and ssm in n}
    assert undecayed == {f'{ssm}.{name}' for name in ('A_log', 'D', 'dt_proj.bias')}
    assert found['head.bias']['weight_decay'] == DECAY


def test_decay_of_a_scan_in_four_directions():
    model = Model(VMamba(arch=dict(channels=4, depths=(1, 1, 1, 1), expand=1)))
    found = groups(model, decay_rate=0.5, ssm_decay_mult=0.0)
    undecayed = {n.partition('.ssm.')[2] for n in found if not found[n]['weight_decay']}
    assert undecayed == {'A_log', 'D', 'dt_bias'}


def test_custom_keys_go_first_and_scale(model):
    keys = {'A_log': dict(decay_mult=0.5), 'head': dict(lr_mult=10)}
    found = groups(model, decay_rate=0.5, ssm_decay_mult=0.0, custom_keys=keys)
    assert found['head.weight']['lr'] == 10 * LR
    last = 'backbone.stages.3.blocks.0.ssm'
    assert found[f'{last}.A_log']['weight_decay'] == 0.5 * DECAY
    assert found[f'{last}.A_log']['lr'] == 0.5 * LR
    assert found[f'{last}.D']['weight_decay'] == 0


def test_frozen_parameters_are_left_out():
    frozen = SpatialMamba(arch=dict(channels=4, depths=(1, 1)), out_indices=(0, 1))
    frozen.stem.requires_grad_(False)
    assert not any('stem' in name for name in groups(Model(frozen), decay_rate=0.5))


@pytest.mark.parametrize('rate', [None, 0, 1.5, 'half'])
def test_bad_rate(model, rate):
    with pytest.raises(ValueError, match=f'decay_rate={rate!r}; expected'):
        groups(model, decay_rate=rate)


def test_backbone_without_layers():
    with pytest.raises(ValueError, match='Model is a Linear'):
        groups(Model(nn.Linear(1, 1)), decay_rate=0.5)


@pytest.mark.parametrize('ssm2d', [False, True])
def test_hosts_of_other_packages(ssm2d):
    swin = dict(type='mmdet.SwinTransformer', embed_dims=8, depths=(1, 2, 1, 1))
    swin.update(num_heads=(1, 1, 1, 1), window_size=2, pretrain_img_size=64)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = Model(SSM2DHost(swin, num_states=2) if ssm2d else MODELS.build(swin))
    found = groups(model, decay_rate=0.5)
    assert found.keys() == dict(model.named_parameters()).keys()
    powers = {
        'head.weight': 0,
        'backbone.norm3.weight': 0,
        'backbone.stages.3.blocks.0.norm1.weight': 1,
        'backbone.stages.1.blocks.1.norm1.weight': 3,
        'backbone.stages.1.blocks.0.norm1.weight': 4,
        'backbone.stages.0.downsample.norm.weight': 4,
        'backbone.stages.0.blocks.0.norm1.weight': 5,
        'backbone.patch_embed.projection.weight': 6,
    }
    for name, power in powers.items():
        assert found[name]['lr'] == LR * 0.5**power, name
    mixes = {n: g['lr'] for n, g in found.items() if '.stages.3.' in n and '.mix.' in n}
    assert set(mixes.values()) == ({LR * 0.5} if ssm2d else set())


def test_flagged_parameters_are_not_decayed():
    host = dict(type='mmssm.ConvNeXt', arch=dict(channels=4, depths=(1, 1, 1, 1)))
    model = Model(SSM2DHost(host, num_states=2))
    flagged = [n for n, p in model.named_parameters() if hasattr(p, 'no_weight_decay')]
    found = groups(model, decay_rate=1)
    decays = {name.rpartition('.')[2]: found[name]['weight_decay'] for name in flagged}
    assert decays == {'A': DECAY, 'B': 0, 'C': 0}
    found = groups(model, decay_rate=1, custom_keys={'ssm2d.B': dict(decay_mult=2)})
    assert found[next(n for n in flagged if n.endswith('.B'))]['weight_decay'] == 0.5
