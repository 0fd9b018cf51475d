"""The 2-D SSM inside networks of other packages."""

from mmssm.hosts.adding import add_ssm2d
from mmssm.hosts.host_layers import HostLayers
from mmssm.hosts.ssm2d_host import SSM2DHost

__all__ = ['HostLayers', 'SSM2DHost', 'add_ssm2d']
