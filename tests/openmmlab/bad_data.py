"""Small data sets in five formats, sound until something is done to them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (40, 30)  # width, height
CLASSES = ('ant', 'bee')
NAMES = ('first', 'sécond ünd', 'third')  # blanks and letters of other alphabets
BOX = (5, 6, 25, 26)
EXIF_ORIENTATION = 0x0112


def picture(size: tuple[int, int] = SIZE, bands: int = 3) -> np.ndarray:
    shape = (size[1], size[0], bands) if bands > 1 else size[::-1]
    return np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)


def turned(tag: int, size: tuple[int, int] = SIZE) -> Callable[[Path], None]:
    """Writes a picture that Exif turns or mirrors."""

    def write(path: Path) -> None:
        exif = Image.Exif()
        exif[EXIF_ORIENTATION] = tag
        Image.fromarray(picture(size)).save(path, 'JPEG', exif=exif)

    return write


def _as(mode: str, form: str = 'PNG') -> Callable[[Path], None]:
    return lambda path: Image.fromarray(picture()).convert(mode).save(path, form)


def _of_size(*size: int) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(picture(size)).save(path, 'PNG')


def _cut(path: Path) -> None:
    Image.fromarray(picture()).save(path, 'JPEG')
    path.write_bytes(path.read_bytes()[:700])


def _corrupt(path: Path) -> None:
    path.write_bytes(b'\xff\xd8\xff\xe0' + bytes(range(256)) * 4)


def _deep(path: Path) -> None:
    values = picture(bands=1).astype(np.uint16) * 16
    Image.fromarray(values).save(path, 'PNG')


def _animated(path: Path) -> None:
    frames = [Image.fromarray(picture() // (i + 1)) for i in range(3)]
    frames[0].save(path, 'GIF', save_all=True, append_images=frames[1:])


# what is wrong -> (writer, words of the finding; None: nothing to say)
PICTURES = dict(
    cut=(_cut, 'unreadable'),
    corrupt=(_corrupt, 'unreadable'),
    empty=(lambda path: path.write_bytes(b''), 'unreadable'),
    text=(lambda path: path.write_text('no picture'), 'unreadable'),
    one_pixel=(_of_size(1, 1), 'below 8 pixels'),
    long=(_of_size(4000, 50), 'times as long as wide'),
    sixteen_bits=(_deep, 'more than 8 bits'),
    grey=(_as('L'), None),
    palette=(_as('P'), None),
    rgba=(_as('RGBA'), 'fourth band'),
    cmyk=(_as('CMYK', 'JPEG'), 'CMYK'),
    animated=(_animated, 'several frames'),
    missing=(Path.unlink, 'do not exist'),
)


def write_pictures(folder: Path, suffix: str = '.jpg') -> None:
    folder.mkdir(parents=True)
    for name in NAMES:
        Image.fromarray(picture()).save(folder / f'{name}{suffix}')


class Set:
    """A data set in a folder.

    pictures: where they lie.  dataset: settings of a config.  scope: mmdet or mmseg.
    """

    scope = 'mmdet'
    heads = dict(bbox_head=dict(num_classes=2))

    def __init__(self, root: Path) -> None:
        self.root = root
        self.pictures = root / 'pictures'
        self.build()

    def build(self) -> None:
        raise NotImplementedError

    def config(self, **changes: object) -> dict:
        pipeline = [dict(type='LoadImageFromFile'), *self.loading, self.packing]
        dataset = dict(self.dataset, data_root=str(self.root), pipeline=pipeline)
        dataset['serialize_data'] = False  # quicker
        return dict(
            default_scope=self.scope,
            train_dataloader=dict(dataset=dict(dataset, **changes)),
            train_cfg={},
            model=self.heads,
        )


class Coco(Set):
    loading = (dict(type='LoadAnnotations', with_bbox=True, with_mask=True),)
    packing = dict(type='PackDetInputs')
    dataset = dict(
        type='CocoDataset',
        ann_file='boxes.json',
        data_prefix=dict(img='pictures'),
        metainfo=dict(classes=CLASSES),
    )

    def build(self) -> None:
        write_pictures(self.pictures)
        self.path = self.root / 'boxes.json'
        x1, y1, x2, y2 = BOX
        polygon = [x1, y1, x2, y1, x2, y2, x1, y2]
        width, height = SIZE
        self.content = dict(
            images=[
                dict(id=i, file_name=f'{name}.jpg', width=width, height=height)
                for i, name in enumerate(NAMES)
            ],
            annotations=[
                dict(
                    id=i,
                    image_id=i,
                    category_id=i % 2 + 1,
                    bbox=[x1, y1, x2 - x1, y2 - y1],
                    area=400,
                    iscrowd=0,
                    segmentation=[polygon],
                )
                for i in range(len(NAMES))
            ],
            categories=[dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)],
        )
        self.save()

    def save(self) -> None:
        self.path.write_text(json.dumps(self.content), encoding='utf-8')


class Lvis(Coco):
    dataset = dict(Coco.dataset, type='LVISV1Dataset')

    def save(self) -> None:
        for image in self.content.get('images', ()):
            if isinstance(image, dict) and 'file_name' in image:
                name = image.pop('file_name')
                image['coco_url'] = f'http://images.cocodataset.org/{name}'
        super().save()


class Panoptic(Set):
    # LoadPanopticAnnotations needs a package that is not on the index
    loading = (dict(type='LoadAnnotations', with_bbox=True),)
    packing = dict(type='PackDetInputs')
    dataset = dict(
        type='CocoPanopticDataset',
        ann_file='panoptic.json',
        data_prefix=dict(img='pictures', seg='maps'),
        metainfo=dict(
            classes=CLASSES, thing_classes=CLASSES[:1], stuff_classes=CLASSES[1:]
        ),
    )
    heads = dict(panoptic_head=dict(num_things_classes=1, num_stuff_classes=1))

    def build(self) -> None:
        write_pictures(self.pictures)
        (self.root / 'maps').mkdir()
        self.path = self.root / 'panoptic.json'
        width, height = SIZE
        x1, y1, x2, y2 = BOX
        colours = np.zeros((height, width, 3), np.uint8)
        colours[..., 0] = 7
        colours[y1:y2, x1:x2] = (1, 1, 0)
        thing = dict(id=257, category_id=1, bbox=[x1, y1, x2 - x1, y2 - y1], area=400)
        stuff = dict(id=7, category_id=2, bbox=[0, 0, width, height], area=800)
        entries = []
        for i, name in enumerate(NAMES):
            Image.fromarray(colours).save(self.root / 'maps' / f'{name}.png')
            segments = [dict(thing, iscrowd=0), dict(stuff, iscrowd=0)]
            entries.append(
                dict(image_id=i, file_name=f'{name}.png', segments_info=segments)
            )
        self.content = dict(
            images=[
                dict(id=i, file_name=f'{name}.jpg', width=width, height=height)
                for i, name in enumerate(NAMES)
            ],
            annotations=entries,
            categories=[
                dict(id=1, name=CLASSES[0], isthing=1),
                dict(id=2, name=CLASSES[1], isthing=0),
            ],
        )
        self.save()

    def save(self) -> None:
        self.path.write_text(json.dumps(self.content), encoding='utf-8')


XML = """<annotation>
  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>
  <object><name>{name}</name><difficult>0</difficult><bndbox>
    <xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>
  </bndbox></object>
</annotation>
"""


class Voc(Set):
    loading = (dict(type='LoadAnnotations', with_bbox=True),)
    packing = dict(type='PackDetInputs')
    dataset = dict(
        type='XMLDataset',
        ann_file='train.txt',
        data_prefix=dict(sub_data_root=''),
        metainfo=dict(classes=CLASSES),
    )

    def build(self) -> None:
        self.pictures = self.root / 'JPEGImages'
        write_pictures(self.pictures)
        (self.root / 'Annotations').mkdir()
        (self.root / 'train.txt').write_text('\n'.join(NAMES) + '\n', encoding='utf-8')
        self.path = self.root / 'Annotations' / f'{NAMES[0]}.xml'
        for i, name in enumerate(NAMES):
            self.write(self.root / 'Annotations' / f'{name}.xml', name=CLASSES[i % 2])

    def write(self, path: Path | None = None, **changes: object) -> None:
        corners = dict(zip(('x1', 'y1', 'x2', 'y2'), BOX, strict=True))
        values = dict(width=SIZE[0], height=SIZE[1], name=CLASSES[0]) | corners
        (path or self.path).write_text(XML.format(**{**values, **changes}))


class Maps(Set):
    scope = 'mmseg'
    heads = dict(decode_head=dict(num_classes=2))
    loading = (dict(type='LoadAnnotations'),)
    packing = dict(type='PackSegInputs')
    dataset = dict(
        type='BaseSegDataset',
        data_prefix=dict(img_path='pictures', seg_map_path='maps'),
        metainfo=dict(classes=CLASSES),
    )

    def build(self) -> None:
        write_pictures(self.pictures)
        (self.root / 'maps').mkdir()
        self.path = self.root / 'maps' / f'{NAMES[0]}.png'
        for name in NAMES:
            self.write(labels(0, 1), self.root / 'maps' / f'{name}.png')

    def write(self, values: np.ndarray, path: Path | None = None) -> None:
        Image.fromarray(values).save(path or self.path)


def labels(ground: int, thing: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A label map with a rectangle."""
    found = np.full(size[::-1], ground, np.uint8)
    x1, y1, x2, y2 = BOX
    found[y1:y2, x1:x2] = thing
    return found


FORMATS = dict(coco=Coco, lvis=Lvis, panoptic=Panoptic, voc=Voc, maps=Maps)
