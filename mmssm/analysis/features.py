"""Feature maps as pictures: their three main directions as colours, their norms."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmssm.analysis import style
from mmssm.backbones import HierarchicalBackbone

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def principal_colours(features: Tensor) -> tuple[Tensor, Tensor]:
    """The first three principal components of a map as red, green and blue.

    features: (C, H, W).  Returns the picture (3, H, W), each component from its 1st to
    its 99th percentile as 0 to 1, and the shares of the variance (3,).  The sign of a
    component is that which makes its largest loading positive; components that are not
    there, of fewer channels or positions or without variance, are 0.5.
    """
    channels, height, width = features.shape
    rows = features.detach().double().cpu().flatten(1).T
    rows = rows - rows.mean(0)
    _, strength, loadings = torch.linalg.svd(rows, full_matrices=False)
    total = strength.square().sum()
    picture = torch.full((3, height, width), 0.5, dtype=torch.float64)
    shares = torch.zeros(3, dtype=torch.float64)
    for index, (size, loading) in enumerate(
        zip(strength[:3], loadings[:3], strict=True)
    ):
        if size <= 1e-9 * max(strength[0], 1e-30):
            break
        sign = loading[loading.abs().argmax()].sign()
        values = rows @ loading * sign
        low, high = values.quantile(torch.tensor([0.01, 0.99]).double())
        scaled = (values - low) / (high - low).clamp(min=1e-30)
        picture[index] = scaled.clamp(0, 1).unflatten(0, (height, width))
        shares[index] = size.square() / total
    return picture, shares


def channel_norm(features: Tensor) -> Tensor:
    """|y_p| of every position: (C, H, W) -> (H, W)."""
    return features.detach().double().cpu().square().sum(0).sqrt()


def contrast(values: Tensor) -> Tensor:
    """From its smallest value as 0 to its largest as 1; zeros where all are alike."""
    low, high = values.min(), values.max()
    if high - low <= 1e-6 * high.abs():  # nothing but rounding
        return torch.zeros_like(values)
    return (values - low) / (high - low)


def stage_maps(backbone: nn.Module, x: Tensor) -> list[Tensor]:
    """The map (C, H, W) of each stage for one picture x (1, C, H, W).

    Of the backbones of this package before the norms of the outputs, behind which all
    positions have nearly the same norm; of others their outputs.
    Raises ValueError for a backbone that gives no maps.
    """
    with torch.no_grad():
        if isinstance(backbone, HierarchicalBackbone):
            maps = [*backbone.maps(x)]
        else:
            maps = backbone(x)
    maps = [maps] if isinstance(maps, Tensor) else maps
    for values in maps:
        if not isinstance(values, Tensor) or values.dim() != 4:
            shape = tuple(getattr(values, 'shape', ()))
            raise ValueError(
                f'{type(backbone).__name__} gives {shape}; expected maps (B, C, H, W)'
            )
    return [values[0] for values in maps]


def summary(maps: Sequence[Tensor]) -> list[dict[str, object]]:
    """Of each map (C, H, W): its shape, shares of variance, norms."""
    found = []
    for features in maps:
        _, shares = principal_colours(features)
        norms = channel_norm(features)
        found.append(
            {
                'shape': list(features.shape),
                'share_of_variance': shares,
                'norm': {
                    'smallest': norms.min(),
                    'mean': norms.mean(),
                    'largest': norms.max(),
                },
            }
        )
    return found


def draw(image: Tensor, rows: dict[str, Sequence[Tensor]]) -> 'Figure':
    """Two rows for each network: the components and the norms of its maps.

    image: (3, H, W), 0 to 1.  rows: title -> maps (C, h, w).
    """
    columns = max(map(len, rows.values())) + 1
    side = (style.WIDTH - 0.3) / columns * image.shape[1] / image.shape[2]
    high = sum(2 * side + 0.75 + style.title_height(title) for title in rows)
    made, axes = style.figure(2 * len(rows), columns, height=high)
    for index, (title, maps) in enumerate(rows.items()):
        colours, norms = axes[2 * index : 2 * index + 2]
        style.show_picture(colours[0], image, title)
        for place in (
            norms[0],
            *(p for r in (colours, norms) for p in r[len(maps) + 1 :]),
        ):
            place.set_axis_off()
        norms[0].text(
            0.5,
            0.5,
            'above: main components\nas red, green, blue\n\n'
            'right: norm over channels,\nlight least, dark most',
            ha='center',
            va='center',
            color=style.QUIET,
            fontsize=8,
            transform=norms[0].transAxes,
        )
        for stage, features in enumerate(maps, 1):
            picture, shares = principal_colours(features)
            channels, height, width = features.shape
            style.show_picture(
                colours[stage],
                picture,
                f'map {stage}: {channels} x {height} x {width}',
            )
            colours[stage].set_xlabel(f'{shares.sum():.0%} of the variance')
            values = channel_norm(features)
            style.show(norms[stage], contrast(values), top=1)
            for place in (colours[stage], norms[stage]):  # as high as the picture
                place.set_aspect(image.shape[1] / image.shape[2] * width / height)
            norms[stage].set_xlabel(f'{values.min():.3g} to {values.max():.3g}')
    return made
