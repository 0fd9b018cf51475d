"""A small network of every family, for tests of what is exported."""

from collections.abc import Callable

import torch
from torch import nn

from mmssm.backbones import MILA, ConvNeXt, Mega, SpatialMamba, VMamba, VMINet
from mmssm.hosts import SSM2DHost

TWO = {'channels': (8, 16), 'depths': (1, 1)}
ONE = {'channels': (8,), 'depths': (1,)}
MEGA = {
    'channels': (8,) * 4,
    'depths': (1,) * 4,
    'patch': 16,
    'shared': 4,
    'expanded': 16,
    'hidden': 16,
}
OUT, FIRST = {'out_indices': (0, 1)}, {'out_indices': (0,)}


def mega(**options: object) -> nn.Module:
    return Mega(MEGA, train_size=64, num_ssms=2, num_states=4, **OUT, **options)


def vminet(**options: object) -> nn.Module:
    return VMINet({**TWO, 'expand': 2}, train_size=64, **OUT, **options)


def host(**options: object) -> nn.Module:
    """A ConvNeXt whose 2-D SSMs do something from the start."""
    network = SSM2DHost(ConvNeXt(ONE, **FIRST), num_states=4, **options)
    for name, parameter in network.named_parameters():
        if name.endswith('gain'):
            nn.init.normal_(parameter)
    return network


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    'convnext': lambda: ConvNeXt(TWO, **OUT),
    'mega': mega,
    'mila': lambda: MILA({**ONE, 'heads': 2}, **FIRST),
    'spatial_mamba': lambda: SpatialMamba(ONE, **FIRST),
    'ssm2d_host': host,
    'vmamba': lambda: VMamba({**ONE, 'expand': 1}, **FIRST),
    'vminet': vminet,
}


def small(family: str) -> nn.Module:
    """A network of the family in evaluation mode, the same every time."""
    torch.manual_seed(0)
    return FAMILIES[family]().eval()
