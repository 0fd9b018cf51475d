"""Make the demo's two datasets: COCO instances and an ADE20K folder.

    python -m tools.demo.data [--out data/demo] [--seed 0]

Both hold the scenes of `scenes.py`, drawn anew for each, on the photographs that
ship inside scikit-image's wheel; nothing is downloaded. Training and validation use
different photographs, for the background and for the fills alike.

    data/demo/
      manifest.json                   seed, version, counts, photographs, digest
      shapes_coco/{train,val}/*.jpg
      shapes_coco/annotations/instances_{train,val}.json
      shapes_ade/images/{training,validation}/*.jpg
      shapes_ade/annotations/{training,validation}/*.png
      shapes_ade/classes.txt          the name of label 1, of label 2, ...

COCO: category ids from 1 in the order of `scenes.CLASSES`; `segmentation` is an
uncompressed RLE (rings have holes, and what covers an object may cut it in two) of the
visible pixels, and `bbox` and `area` are those of the same pixels.
ADE20K: as in the original, index 0 is kept for pixels without a label (there are none
here), so 1 is `background` and the objects follow from 2; read with
`reduce_zero_label=True`.

Picture i of a split depends on (seed, set, split, i) alone: the same seed and the same
versions of numpy and OpenCV give the same bytes. The folder is written under another
name and moved when complete. Data that was made with other settings, or that is no
longer what the manifest's digest says, is made again.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np

from tools.demo.scenes import CLASSES, Instance, draw_scene

VERSION = 1
PHOTOS = {
    'train': (
        'astronaut.png',
        'brick.png',
        'camera.png',
        'coffee.png',
        'grass.png',
        'hubble_deep_field.jpg',
        'ihc.png',
        'motorcycle_left.png',
        'text.png',
    ),
    'val': ('chelsea.png', 'gravel.png', 'moon.png', 'retina.jpg', 'rocket.jpg'),
}
HEIGHTS, WIDTHS, OBJECTS = (96, 128), (96, 160), (2, 5)
CONTENTS = {'manifest.json', 'shapes_coco', 'shapes_ade'}


def load_photos(split: str) -> list[np.ndarray]:
    """The photographs of a split, each (h, w, 3) uint8 BGR."""
    skimage = importlib.util.find_spec('skimage')
    if skimage is None:
        raise SystemExit(
            'The demo takes its photographs from scikit-image, which is not installed: '
            'pip install scikit-image'
        )
    folder = Path(skimage.submodule_search_locations[0], 'data')
    photos = {name: cv2.imread(str(folder / name)) for name in PHOTOS[split]}
    missing = [name for name, photo in photos.items() if photo is None]
    if missing:
        raise SystemExit(
            f'{folder} lacks {", ".join(missing)}, which the wheel of scikit-image '
            'contains: pip install --force-reinstall scikit-image'
        )
    return list(photos.values())


def _scenes(seed: int, dataset: int, split: str, count: int):
    photos = load_photos(split)
    for index in range(count):
        rng = np.random.default_rng((seed, dataset, split == 'val', index))
        size = (
            int(rng.integers(*HEIGHTS, endpoint=True)),
            int(rng.integers(*WIDTHS, endpoint=True)),
        )
        objects = int(rng.integers(*OBJECTS, endpoint=True))
        yield index, *draw_scene(rng, photos, size, objects)


def _write_image(path: Path, image: np.ndarray) -> None:
    parameters = [cv2.IMWRITE_JPEG_QUALITY, 95] if path.suffix == '.jpg' else []
    if not cv2.imwrite(str(path), image, parameters):
        raise OSError(f'cannot write {path}')


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed RLE: column by column, beginning with the zeros."""
    pixels = mask.flatten(order='F')
    changes = np.flatnonzero(np.diff(pixels)) + 1
    lengths = np.diff(np.concatenate(([0], changes, [pixels.size]))).tolist()
    return [0, *lengths] if pixels[0] else lengths


def annotation(instance: Instance, image_id: int, annotation_id: int) -> dict:
    """One entry of COCO's `annotations`."""
    rows = np.flatnonzero(instance.mask.any(axis=1))
    cols = np.flatnonzero(instance.mask.any(axis=0))
    left, top = int(cols[0]), int(rows[0])
    return dict(
        id=annotation_id,
        image_id=image_id,
        category_id=instance.label + 1,
        bbox=[left, top, int(cols[-1]) + 1 - left, int(rows[-1]) + 1 - top],
        area=int(instance.mask.sum()),
        iscrowd=0,
        segmentation=dict(
            size=list(instance.mask.shape), counts=run_lengths(instance.mask)
        ),
    )


def write_coco(root: Path, seed: int, counts: dict[str, int]) -> None:
    """Write `root`/{train,val} and `root`/annotations."""
    (root / 'annotations').mkdir(parents=True)
    for split, count in counts.items():
        (root / split).mkdir()
        images, annotations = [], []
        for index, image, instances in _scenes(seed, 0, split, count):
            name, (height, width) = f'{index + 1:012d}.jpg', image.shape[:2]
            _write_image(root / split / name, image)
            images.append(
                dict(id=index + 1, file_name=name, height=height, width=width)
            )
            for instance in instances:
                annotations.append(
                    annotation(instance, index + 1, len(annotations) + 1)
                )
        contents = dict(
            info=dict(description=f'mmssm demo shapes, version {VERSION}, seed {seed}'),
            licenses=[],
            images=images,
            annotations=annotations,
            categories=[
                dict(id=i + 1, name=name, supercategory='shape')
                for i, name in enumerate(CLASSES)
            ],
        )
        path = root / 'annotations' / f'instances_{split}.json'
        path.write_text(json.dumps(contents, separators=(',', ':')))


def write_ade(root: Path, seed: int, counts: dict[str, int]) -> None:
    """Write `root`/{images,annotations}/{training,validation} and its classes.txt."""
    root.mkdir(parents=True)
    (root / 'classes.txt').write_text('\n'.join(('background', *CLASSES)) + '\n')
    for split, count in counts.items():
        folder = dict(train='training', val='validation')[split]
        for kind in ('images', 'annotations'):
            (root / kind / folder).mkdir(parents=True)
        for index, image, instances in _scenes(seed, 1, split, count):
            labels = np.ones(image.shape[:2], np.uint8)
            for instance in instances:
                labels[instance.mask] = instance.label + 2
            name = f'shapes_{split}_{index + 1:08d}'
            _write_image(root / 'images' / folder / f'{name}.jpg', image)
            _write_image(root / 'annotations' / folder / f'{name}.png', labels)


def digest(root: Path) -> str:
    """SHA-256 over the names and bytes of every file but the manifest."""
    total = hashlib.sha256()
    for path in sorted(root.rglob('*')):
        if path.is_file() and path != root / 'manifest.json':
            total.update(path.relative_to(root).as_posix().encode() + b'\0')
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def _sources() -> str:
    """Changes whenever the generator does."""
    files = [Path(__file__).with_name(name) for name in ('scenes.py', 'data.py')]
    return hashlib.sha256(b''.join(path.read_bytes() for path in files)).hexdigest()


def settings(seed: int, counts: dict[str, int]) -> dict:
    """What the datasets follow from."""
    return dict(
        version=VERSION,
        sources=_sources(),
        seed=seed,
        images=dict(counts),
        classes=list(CLASSES),
        photographs={split: list(names) for split, names in PHOTOS.items()},
    )


def why_not_current(root: Path, wanted: dict) -> str | None:
    """Why the data under `root` is not what `wanted` gives; None if it is."""
    if not root.exists():
        return 'there is none yet'
    try:
        manifest = json.loads((root / 'manifest.json').read_text())
    except (OSError, ValueError):
        return 'its manifest is missing or damaged'
    for key, value in wanted.items():
        if manifest.get(key) != value:
            return f'other {key} are wanted'
    if manifest.get('digest') != digest(root):
        return 'files were changed, added or lost since it was made'
    return None


def make(root: Path, seed: int, counts: dict[str, int]) -> None:
    """Make both datasets and move them to `root`, replacing older ones."""
    strangers = {path.name for path in root.glob('*')} - CONTENTS
    if strangers:
        raise SystemExit(
            f'{root} holds files that are not of the demo ({", ".join(strangers)}): '
            'move them away, or choose another folder with --out'
        )
    new, old = root.with_name(f'{root.name}.new'), root.with_name(f'{root.name}.old')
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    write_coco(new / 'shapes_coco', seed, counts)
    write_ade(new / 'shapes_ade', seed, counts)
    manifest = dict(settings(seed, counts), digest=digest(new))
    (new / 'manifest.json').write_text(json.dumps(manifest, indent=2) + '\n')
    if root.exists():
        os.replace(root, old)
    os.replace(new, root)
    shutil.rmtree(old, ignore_errors=True)


def bring_up_to_date(root: Path, seed: int, counts: dict[str, int]) -> str:
    """Make the datasets unless they are there; says which, and why."""
    reason = why_not_current(root, settings(seed, counts))
    if reason is None:
        return f'{root} is up to date'
    make(root, seed, counts)
    return f'{root} is made: {reason}'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, default=Path('data/demo'))
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--train', type=int, default=480, help='pictures in each set')
    parser.add_argument('--val', type=int, default=100, help='pictures in each set')
    args = parser.parse_args()
    counts = dict(train=args.train, val=args.val)
    print(bring_up_to_date(args.out, args.seed, counts))


if __name__ == '__main__':
    main()
