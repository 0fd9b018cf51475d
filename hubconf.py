"""Entry points of torch.hub: every model of `mmssm.list_models()` under its name.

torch.hub.load(REPOSITORY, 'spatial_mamba_tiny', weights='official')
"""

from functools import partial

from mmssm import create_model, list_models

dependencies = ['torch']


def _entry(name: str) -> partial:
    entry = partial(create_model, name)
    entry.__doc__ = f'{name}: the arguments of `mmssm.create_model` after the name.'
    return entry


globals().update({name: _entry(name) for name in list_models()})
