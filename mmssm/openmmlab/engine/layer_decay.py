"""Learning rates that fall from the heads of a model to its first layer."""

from typing import Protocol

from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from mmssm.hosts import HostLayers
from mmssm.registry import OPTIM_WRAPPER_CONSTRUCTORS

SSM_PARAMETERS = ('A_log', 'D', 'dt_proj.bias', 'dt_bias')


class Layered(Protocol):
    """What is asked of a backbone: its depth, and the layer of each parameter."""

    num_layers: int

    def layer_id(self, name: str) -> int: ...


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimizerConstructor(DefaultOptimWrapperConstructor):
    """Learning rate of layer l of n of the backbone: lr * decay_rate^(n - 1 - l).

    The last layer, the output norms, and everything outside the backbone keep lr
    (BEiT, arXiv 2106.08254, and ConvNeXt, arXiv 2201.03545, fine-tune so).  Works for
    every backbone that has `num_layers` and `layer_id(name)`, as all of ours, and for
    those of other packages whose blocks `mmssm.hosts` knows, with the 2-D SSM or not.

    paramwise_cfg, besides what mmengine's constructor takes (flat_decay_mult=0.0: no
    weight decay on norms, biases and other vectors; norm_decay_mult; custom_keys …):
    decay_rate: in (0, 1].
    ssm_decay_mult: factor on the weight decay of A, D and the bias of the step of
    state-space layers; custom_keys go first.
    Parameters that a layer flags with `no_weight_decay = True`, as `SSM2D` does, are
    not decayed unless custom_keys say so.

        optim_wrapper = dict(
            constructor='mmssm.LayerDecayOptimizerConstructor',
            paramwise_cfg=dict(decay_rate=0.8, flat_decay_mult=0.0, ssm_decay_mult=0.0))

    Raises ValueError for another decay_rate and for a model without such a backbone.
    """

    def add_params(
        self,
        params: list[dict],
        module: nn.Module,
        prefix: str = '',
        is_dcn_module: bool | None = None,
    ) -> None:
        super().add_params(params, module, prefix, is_dcn_module)
        if prefix:
            return
        rate = self.paramwise_cfg.get('decay_rate')
        if not isinstance(rate, int | float) or not 0 < rate <= 1:
            raise ValueError(
                f'paramwise_cfg has decay_rate={rate!r}; expected a number in (0, 1]'
            )
        backbone = _layered(module)
        names = {id(value): name for name, value in module.named_parameters()}
        for group in params:
            name = names[id(group['params'][0])]
            if name.startswith('backbone.'):
                layer = backbone.layer_id(name.removeprefix('backbone.'))
                scale = rate ** (backbone.num_layers - 1 - layer)
                group['lr'] = group.get('lr', self.base_lr) * scale
            custom = self.paramwise_cfg.get('custom_keys', {})
            if self.base_wd is not None and not any(key in name for key in custom):
                self._decay_ssm(group, name)

    def _decay_ssm(self, group: dict, name: str) -> None:
        factor = self.paramwise_cfg.get('ssm_decay_mult')
        ssm = any(f'.{name}'.endswith(f'.{ending}') for ending in SSM_PARAMETERS)
        if factor is not None and ssm:
            group['weight_decay'] = self.base_wd * factor
        if getattr(group['params'][0], 'no_weight_decay', False):
            group['weight_decay'] = 0.0


def _layered(model: nn.Module) -> Layered:
    backbone = getattr(model, 'backbone', None)
    if hasattr(backbone, 'layer_id') and hasattr(backbone, 'num_layers'):
        return backbone
    try:
        return HostLayers(backbone)
    except (AttributeError, ValueError) as error:
        raise ValueError(
            'layer-wise decay needs a backbone with layer_id and num_layers, or one '
            f'that SSM2DHost knows; that of {type(model).__name__} is a '
            f'{type(backbone).__name__}'
        ) from error
