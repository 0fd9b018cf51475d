"""Registered backbones; importing this package registers them in `mmssm.registry`."""

from mmssm.backbones.convnext import ConvNeXt
from mmssm.backbones.hierarchical import HierarchicalBackbone
from mmssm.backbones.mega import Mega
from mmssm.backbones.spatial_mamba import SpatialMamba
from mmssm.hosts.ssm2d_host import SSM2DHost
from mmssm.backbones.vminet import VMINet

__all__ = [
    'ConvNeXt',
    'HierarchicalBackbone',
    'Mega',
    'SSM2DHost',
    'SpatialMamba',
    'VMINet',
]
