"""Models by name, with PyTorch alone."""

import os
from fnmatch import fnmatchcase

from mmssm.backbones import (
    MILA,
    Classifier,
    ConvNeXt,
    HierarchicalBackbone,
    Mega,
    SpatialMamba,
    VMamba,
    VMINet,
)

# prefix of the names -> class
FAMILIES: dict[str, type[HierarchicalBackbone]] = {
    'convnext': ConvNeXt,
    'mega': Mega,
    'mila': MILA,
    'spatial_mamba': SpatialMamba,
    'vmamba': VMamba,
    'vminet': VMINet,
}
# name -> class, arch
MODELS: dict[str, tuple[type[HierarchicalBackbone], str]] = {
    f'{prefix}_{arch}': (family, arch)
    for prefix, family in FAMILIES.items()
    for arch in family.zoo
}


def list_models(pattern: str = '*') -> list[str]:
    """Names for `create_model` that match a shell pattern such as '*mamba*'."""
    return sorted(name for name in MODELS if fnmatchcase(name, pattern))


def create_model(
    name: str,
    weights: str | os.PathLike | None = None,
    *,
    features_only: bool = False,
    num_classes: int | None = None,
    **options: object,
) -> Classifier | HierarchicalBackbone:
    """A model of the zoo: a classifier, or a backbone that returns feature maps.

    name: one of `list_models()`.
    weights: a file or URL with weights of the family, ours or the released ones;
    'official' fetches the released file of this model once; None starts at random.
    features_only: (B, in_channels, H, W) -> a tuple of maps at the strides
    `feature_info.reduction()` with `feature_info.channels()` channels, see
    `HierarchicalBackbone`.  Otherwise -> logits (B, num_classes), see `Classifier`.
    num_classes: 1000 by default.  Where the file's head has another number, the head
    starts at random, with a warning.
    options: of the backbone's constructor; in_channels other than the file's adapts
    the first convolution.  out_indices belongs to features_only.

    Raises ValueError for an unknown name, for options that exclude one another, and
    for weights that do not fit or that nobody released; TypeError for an unknown
    option; FileNotFoundError; `mmssm.weights.DownloadError`, an OSError.
    """
    if name not in MODELS:
        raise ValueError(
            f'there is no model {name!r}; expected one of {", ".join(list_models())}'
        )
    family, arch = MODELS[name]
    if features_only:
        if num_classes is not None:
            raise ValueError(
                f'num_classes is {num_classes} and features_only is True; feature maps '
                'have no classes: leave one of them out'
            )
        backbone = family(arch, **options)
        if weights is not None:
            backbone.load_pretrained(weights)
        return backbone
    if 'out_indices' in options:
        raise ValueError(
            f'out_indices is {options["out_indices"]!r}, but a classifier returns '
            'logits; features_only=True returns maps'
        )
    model = Classifier(
        family(arch, out_indices=(-1,), **options),
        1000 if num_classes is None else num_classes,
    )
    if weights is not None:
        model.load_pretrained(weights)
    return model
