"""Contact sheets: pictures, what is in them, and what a model found.

    python tools/analysis/draw_predictions.py detection --images FOLDER \\
        --annotations COCO.json --predictions RESULTS.json --out SHEET.png
    python tools/analysis/draw_predictions.py segmentation --images FOLDER \\
        --annotations FOLDER --predictions FOLDER --classes NAMES.txt --out SHEET.png

RESULTS.json is what CocoMetric writes with `outfile_prefix` (the .segm.json). For
segmentation, all three folders hold files of the same stems, and the label maps have
the values of the annotation files; IoUMetric writes them with `output_dir`. The first
name in --classes is label --first-label: 0, or 1 where label 0 means unlabelled, as in
ADE20K (`reduce_zero_label=True`). Detections without masks are drawn as boxes.
The pictures are spread evenly over the data set.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

SCALE = 3  # pixels drawn per pixel of the pictures, for smooth outlines
LEAST_SCORE = 0.5


class Found(NamedTuple):
    """An object of a picture: its class, (H, W) bool mask, (x, y, w, h), score.

    mask: None where there is none.
    """

    label: int
    mask: np.ndarray | None
    box: Sequence[float]
    score: float | None = None


def colour(label: int) -> np.ndarray:
    """RGB in 0..1 of a label; neighbouring labels differ clearly."""
    return np.array(mpl.color_sequences['tab10'][label % 10])


def _enlarge(array: np.ndarray, interpolation: int) -> np.ndarray:
    size = (array.shape[1] * SCALE, array.shape[0] * SCALE)
    return cv2.resize(array, size, interpolation=interpolation)


def paint(image: np.ndarray, regions: Iterable[tuple[int, np.ndarray]]) -> np.ndarray:
    """The RGB picture (H, W, 3) in 0..1, enlarged, with every (label, mask) on it."""
    painted = _enlarge(image, cv2.INTER_CUBIC)
    for label, mask in regions:
        smooth = _enlarge(mask.astype(np.float32), cv2.INTER_LINEAR) > 0.5
        painted[smooth] = 0.45 * painted[smooth] + 0.55 * colour(label)
        outline, _ = cv2.findContours(
            smooth.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
        )
        cv2.drawContours(painted, outline, -1, colour(label).tolist(), 2, cv2.LINE_AA)
    return painted.clip(0, 1)


def read_image(path: Path) -> np.ndarray:
    """RGB (H, W, 3) float32 in 0..1."""
    image = cv2.imread(str(path))
    if image is None:
        raise SystemExit(f'cannot read the picture {path}')
    return image[..., ::-1].astype(np.float32) / 255


def _new_sheet(count: int, rows: Sequence[str]) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(2.7 * count + 0.4, 2.6 * len(rows) + 0.5))
    axes = figure.subplots(len(rows), count, squeeze=False)
    for row, title in zip(axes, rows, strict=True):
        row[0].set_ylabel(title, fontsize=13)
        for axis in row:
            axis.set(xticks=[], yticks=[])
            for side in axis.spines.values():
                side.set_visible(False)
    return figure, axes


def _save(
    figure: Figure, names: Sequence[str], colours: Sequence[int], out: Path
) -> None:
    handles = [
        Patch(color=colour(label), label=name)
        for name, label in zip(names, colours, strict=True)
    ]
    figure.legend(
        handles=handles, ncols=len(handles), loc='lower center', frameon=False
    )
    figure.tight_layout(rect=(0, 0.04, 1, 1), pad=0.3)
    temporary = out.with_name(f'.{out.name}')
    figure.savefig(temporary, dpi=80, format='png')
    os.replace(temporary, out)


def _draw_objects(axis, image: np.ndarray, found: Sequence[Found], names) -> None:
    masks = [(one.label, one.mask) for one in found if one.mask is not None]
    axis.imshow(paint(image, masks))
    for one in found:
        x, y, width, height = (SCALE * value for value in one.box)
        axis.add_patch(
            Rectangle((x, y), width, height, fill=False, color=colour(one.label))
        )
        text = names[one.label]
        if one.score is not None:
            text += f' {one.score:.2f}'.replace('0.', '.')
        axis.text(
            max(x, 0) + 2,
            max(y, 0) + 2,
            text,
            fontsize=7,
            color='white',
            va='top',
            bbox=dict(facecolor=colour(one.label), edgecolor='none', pad=0.8),
        )


def _spread(count: int, wanted: int) -> list[int]:
    return np.linspace(0, count - 1, min(count, wanted)).astype(int).tolist()


def draw_detection(
    images: Path, annotations: Path, predictions: Path, out: Path, count: int
) -> None:
    """Pictures, true objects, and those predicted with a score of at least 0.5."""
    truth = COCO(annotations)
    results = json.loads(predictions.read_text())
    categories = sorted(truth.getCatIds())
    names = [truth.cats[i]['name'] for i in categories]
    ids = sorted(truth.getImgIds())
    ids = [ids[i] for i in _spread(len(ids), count)]
    figure, axes = _new_sheet(len(ids), ('picture', 'ground truth', 'prediction'))
    for column, image_id in zip(axes.T, ids, strict=True):
        image = read_image(images / truth.imgs[image_id]['file_name'])
        true = [
            Found(
                categories.index(a['category_id']),
                truth.annToMask(a) > 0 if a.get('segmentation') else None,
                a['bbox'],
            )
            for a in truth.imgToAnns[image_id]
        ]
        found = [
            Found(
                categories.index(r['category_id']),
                coco_mask.decode(r['segmentation']) > 0
                if 'segmentation' in r
                else None,
                r['bbox'],
                r['score'],
            )
            for r in results
            if r['image_id'] == image_id and r['score'] >= LEAST_SCORE
        ]
        _draw_objects(column[0], image, [], names)
        _draw_objects(column[1], image, true, names)
        _draw_objects(column[2], image, found, names)
    _save(figure, names, range(len(names)), out)


def draw_segmentation(
    images: Path,
    annotations: Path,
    predictions: Path,
    names: Sequence[str],
    out: Path,
    count: int,
    first_label: int = 1,
) -> None:
    """Pictures, true label maps, predicted label maps; the first class stays bare.

    first_label: the value of the first of `names` in the label maps.
    """
    paths = sorted(path for path in images.iterdir() if path.is_file())
    paths = [paths[i] for i in _spread(len(paths), count)]
    figure, axes = _new_sheet(len(paths), ('picture', 'ground truth', 'prediction'))
    for column, path in zip(axes.T, paths, strict=True):
        image = read_image(path)
        column[0].imshow(paint(image, []))
        for axis, folder in zip(column[1:], (annotations, predictions), strict=True):
            labels = cv2.imread(str(folder / f'{path.stem}.png'), cv2.IMREAD_UNCHANGED)
            if labels is None:
                raise SystemExit(f'cannot read {folder / path.stem}.png')
            regions = [
                (number - 1, labels == first_label + number)
                for number in range(1, len(names))
            ]
            axis.imshow(paint(image, regions))
    _save(figure, names[1:], range(len(names) - 1), out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('task', choices=('detection', 'segmentation'))
    for name in ('images', 'annotations', 'predictions', 'out'):
        parser.add_argument(f'--{name}', type=Path, required=True)
    parser.add_argument('--classes', type=Path, help='a file with one name per line')
    parser.add_argument(
        '--first-label',
        type=int,
        choices=(0, 1),
        help='label of the first class in the label maps (segmentation)',
    )
    parser.add_argument('--count', type=int, default=6, help='how many pictures')
    args = parser.parse_args()
    places = (args.images, args.annotations, args.predictions)
    if args.task == 'detection':
        draw_detection(*places, args.out, args.count)
    elif args.classes is None or args.first_label is None:
        parser.error(
            'segmentation needs --classes, and --first-label: 1 where label 0 is '
            'unlabelled, as in ADE20K and the demo, else 0'
        )
    else:
        names = args.classes.read_text().split('\n')
        names = [name for name in names if name]
        draw_segmentation(*places, names, args.out, args.count, args.first_label)


if __name__ == '__main__':
    main()
