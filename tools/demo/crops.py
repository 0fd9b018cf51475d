"""Cut the objects out of a COCO data set: a folder of pictures for each class.

    python -m tools.demo.crops data/demo/shapes_coco data/demo/shapes_classes

SOURCE has annotations/instances_{train,val}.json and the folders train and val, as the
demo's data.  TARGET gets {train,val}/CLASS/PICTURE_OBJECT.jpg: a square around each
box, half as large again as its longer side, moved into the picture where it would look
out of it.  Crowds are left out.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

MARGIN = 1.5  # side of the square for a longer side of 1
SPLITS = ('train', 'val')


def square(box: list[float], height: int, width: int) -> tuple[int, int, int]:
    """(left, top, side) of the square around a box (x, y, w, h) in a picture."""
    x, y, w, h = box
    side = max(1, min(round(MARGIN * max(w, h)), height, width))
    left = min(max(round(x + w / 2 - side / 2), 0), width - side)
    top = min(max(round(y + h / 2 - side / 2), 0), height - side)
    return left, top, side


def crops(source: Path, split: str) -> Iterator[tuple[str, str, np.ndarray]]:
    """(class, name, crop) of every object of a split.

    Raises FileNotFoundError for an annotation file or a picture that is not there.
    """
    path = source / f'annotations/instances_{split}.json'
    content = json.loads(path.read_text())
    names = {entry['id']: entry['name'] for entry in content['categories']}
    files = {entry['id']: entry['file_name'] for entry in content['images']}
    for entry in content['annotations']:
        if entry.get('iscrowd'):
            continue
        file = source / split / files[entry['image_id']]
        picture = cv2.imread(str(file))
        if picture is None:
            raise FileNotFoundError(f'there is no picture at {file}')
        left, top, side = square(entry['bbox'], *picture.shape[:2])
        crop = picture[top : top + side, left : left + side]
        yield names[entry['category_id']], f'{file.stem}_{entry["id"]}', crop


def cut(source: Path, target: Path) -> int:
    """Write the crops of both splits; returns how many.

    Raises FileExistsError for a target that is there, and as `crops` does.
    """
    target.mkdir(parents=True)
    count = 0
    for split in SPLITS:
        for kind, name, crop in crops(source, split):
            folder = target / split / kind
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f'{name}.jpg'), crop)
            count += 1
    return count


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('source', type=Path)
    parser.add_argument('target', type=Path)
    args = parser.parse_args()
    try:
        print(f'{cut(args.source, args.target)} objects in {args.target}')
    except (FileExistsError, FileNotFoundError) as error:
        raise SystemExit(str(error)) from error


if __name__ == '__main__':
    main()
