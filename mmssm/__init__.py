"""State-space vision backbones for dense prediction with OpenMMLab.

`mmssm.ops` and `mmssm.layers` need torch only.  The registered backbones
(`type='mmssm.SpatialMamba'` in a config) live in `mmssm.backbones` and are imported
by the OpenMMLab registries when a config names them.
"""

from mmssm.fuse import fuse_for_inference

__version__ = '0.1.0'
__all__ = ['fuse_for_inference']
