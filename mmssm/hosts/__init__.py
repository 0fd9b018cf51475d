"""The 2-D SSM inside networks of other packages."""

from mmssm.hosts.ssm2d_host import SSM2DHost

__all__ = ['SSM2DHost']
