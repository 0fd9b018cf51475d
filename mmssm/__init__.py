"""State-space vision backbones for dense prediction, with PyTorch alone or OpenMMLab.

Everything but `mmssm.openmmlab` and `mmssm.registry` needs torch only:
`mmssm.create_model` builds backbones and classifiers, `mmssm.hosts.add_ssm2d` puts the
2-D SSM into other networks, `mmssm.layers` and `mmssm.ops` are what they are made of.
In OpenMMLab configs `type='mmssm.SpatialMamba'` and its like find the same backbones.
"""

from importlib import import_module

__version__ = '0.1.0'
# name -> module it is imported from on first use: `mmssm-doctor` runs without torch
_PLACES = {
    'add_ssm2d': 'mmssm.hosts',
    'count_macs': 'mmssm.analysis.flops',
    'create_model': 'mmssm.zoo',
    'fuse_for_inference': 'mmssm.export.fuse',
    'list_models': 'mmssm.zoo',
    'load': 'mmssm.openmmlab.prediction',
}
__all__ = sorted(_PLACES)


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(_PLACES[name]), name)
