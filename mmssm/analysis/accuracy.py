"""How often a classifier is right on a folder of pictures, with PyTorch and Pillow."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

SUFFIXES = ('.jpeg', '.jpg', '.png', '.bmp', '.ppm', '.tif', '.tiff', '.webp')
UNREADABLE = -1  # label of a picture that cannot be read
INTERPOLATIONS = ('bicubic', 'bilinear', 'nearest', 'lanczos')


class Recipe(NamedTuple):
    """How a picture is read: short side to `resize`, then the middle `crop` x `crop`.

    mean, std: of RGB values from 0 to 255.  The defaults are those of all released
    classifiers of this package.
    """

    resize: int = 256
    crop: int = 224
    interpolation: str = 'bicubic'
    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    std: tuple[float, ...] = (58.395, 57.12, 57.375)


class Accuracy(NamedTuple):
    """top1, top5: percent of the pictures; top5 None for 5 classes or fewer.

    count: of these pictures.  unreadable: paths of those that could not be read.
    """

    top1: float
    top5: float | None
    count: int
    unreadable: list[str]


def find_pictures(
    folder: Path, names: Sequence[str] | None = None
) -> tuple[list[tuple[Path, int]], list[str]]:
    """Pictures of a folder in the layout of ImageNet, FOLDER/CLASS/**/PICTURE.

    names: of the classes in the order of the model, of which the folder may lack some;
    by default its own folders, sorted.
    Returns pairs (path, class), sorted, and the names.
    Raises FileNotFoundError for a folder that is not there, ValueError for one without
    pictures in folders, and for folders that are not among the names.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f'there is no folder {folder}')
    found = sorted(p.name for p in folder.iterdir() if p.is_dir())
    if not found:
        raise ValueError(
            f'{folder} has no folders; expected one for each class, with its pictures'
        )
    chosen = list(found if names is None else names)
    strange = [name for name in found if name not in set(chosen)]
    if strange:
        raise ValueError(
            f'{folder} has folders that are not among the {len(chosen)} classes: '
            f'{", ".join(strange[:5])}{", …" if len(strange) > 5 else ""}; expected '
            f'names such as {", ".join(chosen[:3])}'
        )
    place = {name: index for index, name in enumerate(chosen)}
    pictures = [
        (path, place[name])
        for name in found
        for path in sorted((folder / name).rglob('*'))
        if path.suffix.lower() in SUFFIXES
    ]
    if not pictures:
        raise ValueError(
            f'no picture in the folders of {folder}; expected files that end in '
            f'{", ".join(SUFFIXES)}'
        )
    return pictures, chosen


class Pictures(Dataset):
    """Pictures as a classifier takes them, with their classes.

    files: pairs (path, class).  An entry is ((3, crop, crop), class); of a picture that
    cannot be read it is zeros and `UNREADABLE`.
    Raises ValueError for a crop that is larger than the resized picture, and for an
    interpolation that Pillow does not have.
    """

    def __init__(self, files: Sequence[tuple[Path, int]], recipe: Recipe) -> None:
        if not 0 < recipe.crop <= recipe.resize:
            raise ValueError(
                f'crop is {recipe.crop} and resize {recipe.resize}; expected a crop '
                'from 1 to resize'
            )
        if recipe.interpolation not in INTERPOLATIONS:
            raise ValueError(
                f'interpolation is {recipe.interpolation!r}; expected one of '
                f'{INTERPOLATIONS}'
            )
        self.files = list(files)
        self.recipe = recipe

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.files[index]
        try:
            return read_picture(path, self.recipe), label
        except (OSError, SyntaxError, ValueError):  # what Pillow says of broken files
            side = self.recipe.crop
            return torch.zeros(3, side, side), UNREADABLE


def read_picture(path: Path, recipe: Recipe) -> Tensor:
    """(3, crop, crop), normalised.  Raises OSError for a file that is no picture."""
    from PIL import Image

    method = Image.Resampling[recipe.interpolation.upper()]
    with Image.open(path) as opened:
        picture = opened.convert('RGB')
    width, height = picture.size
    short, side = min(width, height), recipe.resize
    size = [int(side * n / short) for n in (width, height)]
    picture = picture.resize(size, method)
    left, top = (round((n - recipe.crop) / 2) for n in size)
    picture = picture.crop((left, top, left + recipe.crop, top + recipe.crop))
    values = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    x = values.view(recipe.crop, recipe.crop, 3).permute(2, 0, 1).float()
    mean, std = (torch.tensor(v)[:, None, None] for v in (recipe.mean, recipe.std))
    return (x - mean) / std


@torch.no_grad()
def accuracy(
    model: nn.Module | Callable[[Tensor], Tensor],
    pictures: Pictures,
    *,
    batch_size: int = 64,
    workers: int = 0,
    device: str | torch.device = 'cpu',
    told: Callable[[int, float], None] | None = None,
) -> Accuracy:
    """How often the class of a picture has the largest of the logits, or is among 5.

    model: (B, 3, crop, crop) -> logits (B, K), in evaluation mode, on the device.
    told: is called after each batch with the pictures so far and their top-1.
    """
    right1 = right5 = count = 0
    ranked = 0
    unreadable: list[str] = []
    loader = DataLoader(pictures, batch_size, num_workers=workers)
    for number, (x, labels) in enumerate(loader):
        bad = (labels == UNREADABLE).nonzero().flatten().tolist()
        start = number * batch_size
        unreadable += [str(pictures.files[start + i][0]) for i in bad]
        good = labels != UNREADABLE
        if not good.any():
            continue
        logits = model(x[good].to(device)).float().cpu()
        ranked = min(5, logits.shape[1])
        hits = logits.topk(ranked).indices == labels[good, None]  # (B, ranked)
        right1 += int(hits[:, 0].sum())
        right5 += int(hits.sum())
        count += len(hits)
        if told is not None:
            told(count, 100 * right1 / count)
    share = 100 / max(count, 1)
    top5 = right5 * share if ranked == 5 and logits.shape[1] > 5 else None
    return Accuracy(right1 * share, top5, count, unreadable)


def published_top1(family: str, arch: str | None, released: Mapping) -> float | None:
    """What the authors wrote of their classifier; None where they released none."""
    entry = released.get(f'{family}_{arch}')
    return entry.metrics['top-1'] if entry is not None else None
