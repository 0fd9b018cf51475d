"""The layers of a host, for learning rates that fall towards its first one."""

from torch import nn

from mmssm.hosts.places import find_blocks


class HostLayers:
    """Layer of each parameter of a host, counted as in `HierarchicalBackbone`.

    num_layers: patch embedding or stem, every block, what follows the last one.
    Raises ValueError for a network without blocks that are known.
    """

    def __init__(self, host: nn.Module) -> None:
        self._host = type(host).__name__
        blocks = {id(b.module): i for i, b in enumerate(find_blocks(host), start=1)}
        if not blocks:
            raise ValueError(
                f'{self._host} has no blocks that are known as layers; see '
                'mmssm.hosts.add_ssm2d for the networks that have'
            )
        self.num_layers = len(blocks) + 2
        self._layers: dict[str, int] = {}
        self._number(host, '', blocks, 0)
        self._place_downsampling(host, blocks)

    def layer_id(self, name: str) -> int:
        """0 for what comes before the first block, num_layers - 1 after the last.

        What lies between two blocks belongs to the second.  Raises KeyError for a name
        that is not a parameter.
        """
        if name not in self._layers:
            raise KeyError(f'{self._host} has no parameter {name!r}')
        return self._layers[name]

    def _number(
        self, module: nn.Module, prefix: str, blocks: dict[int, int], layer: int
    ) -> int:
        """Number the parameters in the order of registration; the last block passed."""
        if id(module) in blocks:
            layer = blocks[id(module)]
            for name, _ in module.named_parameters(prefix.rstrip('.')):
                self._layers[name] = layer
            return layer
        following = 0 if not layer else min(layer + 1, self.num_layers - 1)
        for name, _ in module.named_parameters(recurse=False):
            self._layers[prefix + name] = following
        for name, child in module.named_children():
            layer = self._number(child, f'{prefix}{name}.', blocks, layer)
        return layer

    def _place_downsampling(self, host: nn.Module, blocks: dict[int, int]) -> None:
        """mmpretrain's ConvNeXt registers all downsampling before its stages."""
        for prefix, module in host.named_modules():
            before = getattr(module, 'downsample_layers', None)
            if not isinstance(before, nn.ModuleList):
                continue
            start = f'{prefix}.downsample_layers' if prefix else 'downsample_layers'
            for index in range(1, len(before)):
                inner = module.stages[index].modules()
                first = next(blocks[id(m)] for m in inner if id(m) in blocks)
                for name, _ in before[index].named_parameters(f'{start}.{index}'):
                    self._layers[name] = first
