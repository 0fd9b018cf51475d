"""'official' finds, downloads and loads what the authors released for the model."""

import logging

import pytest
import torch

import mmssm
from mmssm.backbones import MILA, ConvNeXt, SpatialMamba, VMamba, VMINet, hierarchical
from mmssm.weights import RELEASED, load_file, save_file

TINY = {'channels': 8, 'depths': (1, 1, 1, 1)}
OFFICIAL = {'type': 'Pretrained', 'checkpoint': 'official'}
SMALL = {
    MILA: {**TINY, 'heads': 1},
    SpatialMamba: TINY,
    VMamba: {**TINY, 'expand': 2},
    VMINet: {**TINY, 'expand': 2},
}


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Sources that were fetched; every one gives a file of a small VMINet."""
    sources = []
    model = mmssm.create_model('vminet_ti')
    save_file(model.state_dict(), tmp_path / 'a.pth')

    def fetch(source):
        sources.append(source)
        return tmp_path / 'a.pth'

    monkeypatch.setattr(hierarchical, 'fetch', fetch)
    monkeypatch.setitem(RELEASED, 'vminet_ti', RELEASED['vminet_xs'])
    return sources


@pytest.mark.parametrize('cfg', [OFFICIAL, [OFFICIAL]])
def test_init_cfg_finds_the_weights_of_the_arch(cfg, asked, tmp_path):
    backbone = VMINet('ti', init_cfg=cfg)
    assert asked == []  # building does not download
    backbone.init_weights()
    assert asked == ['vminet_ti']
    expected = load_file(tmp_path / 'a.pth')
    for name, value in backbone.state_dict().items():
        if not name.startswith('out_norms'):
            assert torch.equal(value, expected[f'backbone.{name}']), name


@pytest.mark.parametrize('features_only', [False, True])
def test_create_model_finds_them(features_only, asked, tmp_path):
    model = mmssm.create_model('vminet_ti', 'official', features_only=features_only)
    assert asked == ['vminet_ti']
    stem = next((model if features_only else model.backbone).stem.parameters())
    named = load_file(tmp_path / 'a.pth')
    assert torch.equal(stem, next(v for k, v in named.items() if '.stem.' in k))


def test_an_arch_of_ones_own_is_refused():
    backbone = SpatialMamba(TINY, init_cfg=OFFICIAL)
    with pytest.raises(ValueError, match="by name, one of 'tiny', 'small', 'base'"):
        backbone.init_weights()


@pytest.mark.parametrize('name', ['convnext_tiny', 'mega_tiny', 'vminet_ti'])
def test_families_and_sizes_without_a_released_file_say_so(name):
    assert name in mmssm.list_models()
    with pytest.raises(ValueError, match=f"no weights were released for '.*{name}'"):
        mmssm.create_model(name, 'official')


@pytest.mark.parametrize('family', [*SMALL, ConvNeXt])
@pytest.mark.parametrize('channels', [1, 5])
def test_the_stem_is_adapted_to_other_channels(family, channels, tmp_path, caplog):
    arch = SMALL.get(family, TINY)
    trained = family(arch).double().eval()
    for parameter in trained.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    save_file(trained.state_dict(), tmp_path / 'a.pth')
    model = family(arch, in_channels=channels).double().eval()
    with caplog.at_level(logging.INFO, 'mmssm'):
        model.load_pretrained(tmp_path / 'a.pth')
    assert f'adapted from 3 to {channels} input channels' in caplog.text
    grey = torch.randn(1, 1, 32, 40).double()
    for y, expected in zip(
        model(grey.expand(1, channels, 32, 40)),
        trained(grey.expand(1, 3, 32, 40)),
        strict=True,
    ):
        torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)


def test_the_stem_of_a_classifier_is_adapted(asked, caplog):
    with caplog.at_level(logging.INFO, 'mmssm'):
        model = mmssm.create_model('vminet_ti', 'official', in_channels=4)
    assert 'adapted from 3 to 4 input channels' in caplog.text
    with torch.no_grad():
        assert model.eval()(torch.randn(1, 4, 33, 40)).shape == (1, 1000)


@pytest.mark.parametrize(
    ('cfg', 'words'),
    [
        ([OFFICIAL, {'type': 'Normal'}], '2 entries, of which 1 Pretrained'),
        ({**OFFICIAL, 'strict': True}, r"unknown options \['strict'\]"),
        ({'type': 'Pretrained'}, 'checkpoint=None'),
    ],
)
def test_an_init_cfg_that_does_not_fit_is_named(cfg, words):
    with pytest.raises(ValueError, match=words):
        SpatialMamba(TINY, init_cfg=cfg).init_weights()
