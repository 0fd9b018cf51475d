"""The contract that all backbones of the package share."""

import copy
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmssm.backbones.arch import Arch
from mmssm.backbones.arguments import CONTRACT
from mmssm.backbones.feature_info import FeatureInfo
from mmssm.backbones.recompute import recompute
from mmssm.layers import ChannelNorm
from mmssm.layers.arguments import checked
from mmssm.ops.lowered import lowered_weights
from mmssm.ops.operator import is_recorded
from mmssm.weights import (
    adapt_in_channels,
    compare,
    fetch,
    load_weights,
    official_name,
    read_options,
    read_weights,
)

LOG = logging.getLogger(__name__)
# What else initialises a module as its init_cfg says; None where nothing can.
INITIALIZE: Callable[[nn.Module, object], None] | None = None


class Stage(nn.Module):
    """A transition to the stage's resolution, then its blocks.

    downsample: (B, C', H', W') -> (B, C, H, W).  blocks: keep the shape.
    with_cp: keep no activations inside a block while training, compute them again in
    the backward pass (less memory, more time).
    """

    def __init__(
        self, downsample: nn.Module, blocks: Sequence[nn.Module], with_cp: bool = False
    ) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.ModuleList(blocks)
        self.with_cp = with_cp

    def forward(self, x: Tensor) -> Tensor:
        x = self.downsample(x)
        for block in self.blocks:
            if self.with_cp and torch.is_grad_enabled():
                x = recompute(block, x)
            else:
                x = block(x)
        return x


class HierarchicalBackbone(nn.Module):
    """stem -> stages, with a norm on every stage that is returned.

    stem: (B, in_channels, H, W) -> first map.  stages: one `Stage` per resolution.
    stage_channels, stage_strides: of each stage's output.
    out_indices: stages to return, negative ones count from the end; stages after the
    last one are not built, so that every parameter gets a gradient.
    out_norm: makes the norm of an output from its channels; None returns it as it is.
    frozen_stages: -1 trains everything, 0 freezes the stem, n also the first n stages
    with their output norms (no gradient, evaluation mode).
    norm_eval: keep every batch norm in evaluation mode while training.
    arch: what the backbone was asked for; its name finds the official weights.
    init_cfg: mmengine's; `dict(type='Pretrained', checkpoint='official')` takes the
    released weights, see `load_pretrained`, and the options of
    `mmssm.weights.PretrainedOptions`.

    `channels` and `strides` describe the outputs, in the order of out_indices.
    Raises ValueError for arguments that do not fit `arguments.CONTRACT`.
    """

    family: str
    zoo: Mapping[str, Mapping[str, object]]
    # of the paper's classifier, and whether it follows the mean over the map
    classifier_norm: Callable[[int], nn.Module] = ChannelNorm
    norm_last = False
    # weight of a block whose first axis is its channels, see `options_of`
    block_width: str

    @checked(CONTRACT)
    def __init__(
        self,
        stem: nn.Module,
        stages: Sequence[Stage],
        *,
        stage_channels: Sequence[int],
        stage_strides: Sequence[int],
        arch: Arch,
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        out_norm: Callable[[int], nn.Module] | None = None,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__()
        self.init_cfg = copy.deepcopy(init_cfg)
        self.is_init = False
        count = len(stages)
        self.out_indices = tuple(i % count for i in out_indices)
        self.stages_in_arch = count
        stages = stages[: self.out_indices[-1] + 1]
        self.arch = arch if isinstance(arch, str) else None
        self.in_channels = in_channels
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.stage_channels = tuple(stage_channels)
        self.stage_strides = tuple(stage_strides)
        self.channels = tuple(stage_channels[i] for i in self.out_indices)
        self.strides = tuple(stage_strides[i] for i in self.out_indices)
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.out_norms = nn.ModuleDict()
        if out_norm is not None:
            for index, channels in zip(self.out_indices, self.channels, strict=True):
                self.out_norms[str(index)] = out_norm(channels)
        self._multiplied: tuple[Tensor, ...] = ()  # weights, by the last pass
        self._freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, in_channels, H, W) -> one (B, C_i, H_i, W_i) for each out index.

        H_i = ceil(H / stride_i); any H and W from 1.  Raises ValueError for another
        rank or number of channels and for an empty map.
        """
        if is_recorded((x,)):
            return self._outputs(x)
        with lowered_weights(self._multiplied, x) as multiplied:
            outputs = self._outputs(x)
        self._multiplied = tuple(multiplied.values())
        return outputs

    def _outputs(self, x: Tensor) -> tuple[Tensor, ...]:
        outputs = []
        for index, y in enumerate(self.maps(x)):
            if index in self.out_indices:
                norm = self.out_norms[str(index)] if self.out_norms else nn.Identity()
                outputs.append(norm(y).contiguous())
        return tuple(outputs)

    def maps(self, x: Tensor) -> Iterator[Tensor]:
        """The map after each stage, before any norm of the outputs."""
        if x.dim() != 4 or x.shape[1] != self.in_channels or 0 in x.shape[2:]:
            raise ValueError(
                f'{type(self).__name__} got an input of shape {tuple(x.shape)}; '
                f'expected (B, {self.in_channels}, H, W) with H and W from 1. '
                'in_channels of the backbone sets the number of channels'
            )
        last = torch.channels_last
        x = self.stem(x.contiguous(memory_format=last)).contiguous(memory_format=last)
        for stage in self.stages:
            x = stage(x)
            yield x

    def init_weights(self) -> None:
        """Load the pretrained weights of init_cfg, if it names any.

        Random initialisation happens in the layers' constructors; an init_cfg of
        another type needs OpenMMLab, whose initialisers then run.
        Raises ValueError for one of another type where OpenMMLab is not used, and for
        options of a pretrained one that do not fit; else as `load_pretrained`.
        """
        cfg, options = self.init_cfg, read_options(self.init_cfg)
        if options is not None:
            given = options._asdict()
            self.load_pretrained(given.pop('checkpoint'), **given)
        elif cfg and not self.is_init:
            if INITIALIZE is None:
                raise ValueError(
                    f"init_cfg is {cfg!r}; expected dict(type='Pretrained', "
                    "checkpoint=FILE): other types are OpenMMLab's, which "
                    'mmssm.registry brings in'
                )
            try:
                INITIALIZE(self, cfg)
            except Exception as error:  # whatever another initialiser says
                raise ValueError(
                    f'init_cfg is {cfg!r}, which initialises nothing here: {error}'
                ) from error
        self.is_init = True

    def load_pretrained(
        self,
        path: str | os.PathLike,
        *,
        allow_missing: Sequence[str] = (),
        allow_unexpected: Sequence[str] = (),
        **options: str | None,
    ) -> None:
        """Load weights of this family, ours or the official ones.

        path: a file, a URL, a name of `mmssm.weights.RELEASED`, or 'official': the
        released classifier of this arch, downloaded once.
        options: `key` and `prefix` of `weights.read_weights`.  Norms of the outputs,
        which a classifier does not have, and stages that are not built may differ.
        The stem's first convolution is adapted to another number of in_channels.
        Raises FileNotFoundError; DownloadError; ValueError for weights that do not
        fit, all of them named, and for 'official' where none were released.
        """
        path = self.find_weights(path)
        found = read_weights(path, self.family, **options)
        weights = self.adapt_stem(found)
        # a classifier has no output norms, and stages beyond the outputs are not built
        unbuilt = range(len(self.stages), self.stages_in_arch)
        beyond = [f'stages.{i}.*' for i in unbuilt]
        try:
            report = load_weights(
                self,
                weights,
                allow_missing=('out_norms.*', *allow_missing),
                allow_unexpected=('out_norms.*', *beyond, *allow_unexpected),
            )
        except ValueError as error:
            arch = self.arch_of(found)
            hint = f' (these are the weights of arch={arch!r})' if arch else ''
            raise ValueError(f'{path}{hint}: {error}') from error
        LOG.info('loaded %s: %s', path, report)

    def find_weights(self, path: str | os.PathLike) -> str | os.PathLike:
        """The downloaded file for 'official', everything else as it is.

        Raises ValueError for an arch that is not given by name, or without released
        weights.
        """
        if path != 'official':
            return path
        if self.arch is None:
            raise ValueError(
                "'official' weights belong to an arch given by name, one of "
                f'{", ".join(map(repr, self.zoo))}; this {type(self).__name__} has '
                'settings of its own: give the path of a file'
            )
        return fetch(official_name(self.family, self.arch))

    def adapt_stem(
        self, weights: Mapping[str, Tensor], prefix: str = ''
    ) -> dict[str, Tensor]:
        """The weights with the stem's first convolution for our in_channels.

        prefix: what stands before the names of this backbone.
        """
        first = next(
            name for name, m in self.stem.named_modules() if isinstance(m, nn.Conv2d)
        )
        name = f'{prefix}stem.{first}.weight'.replace('..', '.')
        weight = weights.get(name)
        if weight is None or weight.dim() != 4 or weight.shape[1] == self.in_channels:
            return dict(weights)
        LOG.info(
            '%s adapted from %d to %d input channels',
            name,
            weight.shape[1],
            self.in_channels,
        )
        return {**weights, name: adapt_in_channels(weight, self.in_channels)}

    @property
    def feature_info(self) -> FeatureInfo:
        """Channels and strides as timm's `features_only` models tell them."""
        return FeatureInfo(self.stage_channels, self.stage_strides, self.out_indices)

    @classmethod
    def arch_of(cls, weights: Mapping[str, Tensor]) -> str | None:
        """Name of the architecture in the zoo that the weights (our names) fit."""
        for arch in cls.zoo:
            with torch.device('meta'):
                report = compare(weights, cls(arch))
            extra = [*report.missing, *report.unexpected]
            norms = all(name.startswith('out_norms.') for name in extra)
            if norms and not report.mismatched:
                return arch
        return None

    @classmethod
    def options_of(cls, weights: Mapping[str, Tensor]) -> dict[str, object] | None:
        """Arguments of the constructor for weights (our names) of any size.

        None where the first block of no stage is among them.
        """
        channels, depths = [], []
        while (name := f'stages.{len(depths)}.blocks.0.{cls.block_width}') in weights:
            channels.append(len(weights[name]))
            start = f'stages.{len(depths)}.blocks.'
            blocks = {k.split('.')[3] for k in weights if k.startswith(start)}
            depths.append(len(blocks))
        if not depths:
            return None
        arch = {'channels': tuple(channels), 'depths': tuple(depths)}
        return {'arch': arch, 'out_indices': tuple(range(len(depths)))}

    def train(self, mode: bool = True) -> 'HierarchicalBackbone':
        """As nn.Module.train, but frozen parts and, by norm_eval, batch norms stay."""
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    @property
    def num_layers(self) -> int:
        """Depth for layer-wise decay: the stem, every block, the output norms."""
        return sum(len(stage.blocks) for stage in self.stages) + 2

    def layer_id(self, name: str) -> int:
        """Layer of a parameter of this backbone: 0 for the stem, num_layers - 1 last.

        A stage's downsampling belongs to its first block.  Raises KeyError for a name
        that is not a parameter.
        """
        if name not in dict(self.named_parameters()):
            raise KeyError(f'{type(self).__name__} has no parameter {name!r}')
        part, *path = name.split('.')
        if part == 'stem':
            return 0
        if part == 'out_norms':
            return self.num_layers - 1
        stage = int(path[0])
        before = sum(len(s.blocks) for s in self.stages[:stage])
        return 1 + before + (int(path[2]) if path[1] == 'blocks' else 0)

    def _freeze(self) -> None:
        frozen: list[nn.Module] = []
        if self.frozen_stages >= 0:
            frozen.append(self.stem)
        for index in range(min(self.frozen_stages, len(self.stages))):
            frozen.append(self.stages[index])
            if str(index) in self.out_norms:
                frozen.append(self.out_norms[str(index)])
        for module in frozen:
            module.eval()
            module.requires_grad_(False)


def drop_path_rates(last: float, depths: Sequence[int]) -> list[list[float]]:
    """Rates of each stage's blocks, growing linearly from 0 to `last` over all."""
    count = sum(depths)
    rates = [last * i / max(count - 1, 1) for i in range(count)]
    starts = [sum(depths[:i]) for i in range(len(depths))]
    return [rates[s : s + d] for s, d in zip(starts, depths, strict=True)]
