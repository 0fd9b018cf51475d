"""State-space vision backbones for dense prediction with OpenMMLab.

`mmssm.ops`, `mmssm.layers` and `mmssm.fuse_for_inference` need torch only.  The
registered backbones (`type='mmssm.SpatialMamba'` in a config) live in
`mmssm.backbones` and are imported by the OpenMMLab registries when a config names them.
"""

__version__ = '0.1.0'
__all__ = ['fuse_for_inference']


def __getattr__(name: str) -> object:
    """Import on first use: `mmssm-doctor` must run where torch does not."""
    if name == 'fuse_for_inference':
        from mmssm.export.fuse import fuse_for_inference

        return fuse_for_inference
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
