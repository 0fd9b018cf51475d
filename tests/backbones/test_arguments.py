"""One table says what the arguments of a backbone may be, and it is obeyed."""

import inspect

import pytest
import torch
from wrong_arguments import WORKING, unclear

from mmssm.backbones import SpatialMamba, VMINet, arguments
from mmssm.hosts import SSM2DHost, adding, places
from mmssm.layers import MLP, SSM2D, DropPath, StateFusion
from mmssm.registry import BACKBONES, MODELS


def rules(backbone):
    """The table of a class, or of a function."""
    return getattr(backbone, 'rules', None) or backbone.__init__.rules


@pytest.mark.parametrize('backbone', BACKBONES, ids=lambda b: b.__name__)
def test_every_argument_has_its_row(backbone):
    assert set(rules(backbone)) == set(inspect.signature(backbone).parameters)
    assert backbone.__name__ in WORKING


def test_rows_of_hosts_are_what_hosts_have():
    for name, values in (('place', places.PLACES), ('start', adding.STARTS)):
        for value in values:
            assert arguments.SSM2D_HOST[name](value, {}) is None
        listed = arguments.SSM2D_HOST[name]('other', {})
        assert listed.endswith(', '.join(map(repr, values)))


def test_wrong_arguments_are_explained():
    assert unclear(250) == []


@pytest.mark.parametrize(
    'options, words',
    [
        (dict(in_channels='3'), "in_channels is '3'; expected an integer from 1"),
        (dict(in_channels=True), 'in_channels is True'),
        (dict(drop_path_rate=1), 'drop_path_rate is 1; expected .* below 1'),
        (dict(drop_path_rate=float('nan')), 'drop_path_rate is nan'),
        (dict(out_indices=3), r'out_indices is 3; .* such as \(1, 2\)'),
        (dict(out_indices=('0',)), 'out_indices is'),
        (dict(frozen_stages=1.0), 'frozen_stages is 1.0; expected an integer, -1'),
        (dict(norm_cfg='BN'), "norm_cfg is 'BN'; .*dict"),
        (dict(norm_cfg=dict(type='BN', eps='x')), "norm_cfg has eps='x'"),
        (dict(norm_cfg=dict(type='Nope')), "norm_cfg is .*'Nope'.* 'BN', 'SyncBN'"),
        (dict(norm_cfg=dict(type='GN', num_groups=7)), 'norm_cfg is .*divisible'),
        (dict(init_cfg='official'), "init_cfg is 'official'; .*checkpoint"),
        (dict(init_cfg=dict(typ='Pretrained')), 'init_cfg is .* a dict with a type'),
        (dict(with_cp=1), 'with_cp is 1; expected True or False'),
        (dict(arch=dict(channels=8, depth=(1, 1))), "mean 'depths'"),
        (dict(arch=dict(channels=1, depths=(1, 1))), 'arch has channels=1'),
        (dict(arch=dict(channels=8, depths=(True, 1))), 'arch has depths'),
        (dict(arch=3), 'arch is 3; expected a name or a dict'),
    ],
)
def test_the_error_names_argument_value_and_what_was_expected(options, words):
    with pytest.raises(ValueError, match=words):
        SpatialMamba(**options)


@pytest.mark.parametrize('value', [float('inf'), float('nan'), -1])
def test_numbers_are_finite(value):
    with pytest.raises(ValueError, match=f'tolerance is {value}; expected a finite'):
        SSM2D(4, tolerance=value)


def test_a_misspelt_argument_is_guessed():
    with pytest.raises(TypeError, match="SpatialMamba has no .*'drop_path_rate'"):
        SpatialMamba(drop_path=0.1)
    with pytest.raises(TypeError, match="SSM2DHost has no .*'directions'"):
        SSM2DHost(host=dict(type='mmdet.SwinTransformer'), direction=2)


@pytest.mark.parametrize(
    'make',
    [
        lambda: VMINet('b', train_size=10**6),
        lambda: VMINet('b', frozen_stages=9),
        lambda: SpatialMamba('base', out_indices=(4,)),
        lambda: SpatialMamba(dict(channels=10**6, depths=(1, 1))),
        lambda: SSM2D(8, num_states=10**9),
    ],
)
def test_nothing_is_allocated_before_the_check(make, monkeypatch):
    def never(cls, data=None, requires_grad=True):
        assert data.is_meta, 'a parameter was made'
        return made(cls, data, requires_grad)

    made = torch.nn.Parameter.__new__
    monkeypatch.setattr(torch.nn.Parameter, '__new__', never)
    with pytest.raises(ValueError, match='expected'):
        make()


def test_far_dilations_are_refused_by_layer_and_op():
    with pytest.raises(ValueError, match=r'dilations is \(1, 3, 70000\)'):
        StateFusion(4, (1, 3, 70000))
    with pytest.raises(ValueError, match=r'dilations is \(1, 3, 5.0\)'):
        StateFusion(4, (1, 3, 5.0))
    layer = StateFusion(4)
    layer.dilations = (1, 3, 70000)
    with pytest.raises(ValueError, match='from 1 to 255'):
        layer(torch.zeros(1, 4, 5, 5))


def test_a_backbone_of_ones_own_is_checked_by_its_stages():
    from mmssm.backbones.hierarchical import HierarchicalBackbone, Stage

    stages = [Stage(torch.nn.Identity(), [MLP(3)]) for _ in range(2)]
    sizes = dict(stage_channels=(3, 3), stage_strides=(1, 1), arch='own')
    model = HierarchicalBackbone(torch.nn.Identity(), stages, **sizes, out_indices=[1])
    assert model.out_indices == (1,)
    with pytest.raises(ValueError, match='out_indices is .* 0 to 1 .* has 2 stages'):
        HierarchicalBackbone(torch.nn.Identity(), stages, **sizes)


def test_other_initialisers_explain_themselves():
    for cfg in (dict(type='Nope'), dict(type='Constant', layer=3)):
        with pytest.raises(ValueError, match='init_cfg is .*initialises nothing'):
            MODELS.build(
                {'type': 'mmssm.ConvNeXt', **WORKING['ConvNeXt'], 'init_cfg': cfg}
            ).init_weights()


def test_signatures_stay_what_they_are():
    assert list(inspect.signature(DropPath).parameters) == ['rate']
    assert inspect.signature(SpatialMamba).parameters['arch'].default == 'tiny'
