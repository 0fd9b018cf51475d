"""Backbones and the classifier over them; torch is all they need."""

from mmssm.backbones.classifier import Classifier
from mmssm.backbones.convnext import ConvNeXt
from mmssm.backbones.hierarchical import HierarchicalBackbone
from mmssm.backbones.mega import Mega
from mmssm.backbones.mila import MILA
from mmssm.backbones.spatial_mamba import SpatialMamba
from mmssm.backbones.vmamba import VMamba
from mmssm.backbones.vminet import VMINet

__all__ = [
    'MILA',
    'Classifier',
    'ConvNeXt',
    'HierarchicalBackbone',
    'Mega',
    'SpatialMamba',
    'VMamba',
    'VMINet',
]
