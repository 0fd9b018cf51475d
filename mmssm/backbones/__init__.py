"""Registered backbones; importing this package registers them in `mmssm.registry`."""

from mmssm.backbones.hierarchical import HierarchicalBackbone
from mmssm.backbones.spatial_mamba import SpatialMamba
from mmssm.backbones.vminet import VMINet

__all__ = ['HierarchicalBackbone', 'SpatialMamba', 'VMINet']
