"""Predict on pictures, a folder of them, or a video, and draw what was found."""

import argparse
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from rich.progress import track

from mmssm.openmmlab.cli import add_config
from mmssm.openmmlab.engine.configs import read_config
from mmssm.openmmlab.errors import UserError
from mmssm.openmmlab.prediction import Detections, load, sources
from mmssm.openmmlab.prediction.model import Predictor, Result
from mmssm.weights import write_whole


def main(argv: Sequence[str] | None, name: str) -> int:
    """The command `mmssm-predict`; 1 where some pictures could not be read."""
    args = _parser(name).parse_args(argv)
    found = sources.find(args.source)
    cfg = read_config(args.config, args.cfg_options)
    model = load(cfg, args.checkpoint, args.device, amp=args.amp)
    args.out.mkdir(parents=True, exist_ok=True)
    if isinstance(found, sources.Video):
        return _video(model, found, args)
    return _pictures(model, found, args)


def _parser(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=name, description=__doc__)
    add_config(parser)
    parser.add_argument('checkpoint', help="weights, or 'official'")
    parser.add_argument('source', help='a picture, a folder of pictures, or a video')
    parser.add_argument(
        '--out', type=Path, default=Path('predictions'), help='folder (predictions)'
    )
    parser.add_argument(
        '--score', type=float, default=0.3, help='leave out objects below it (0.3)'
    )
    parser.add_argument('--batch', type=int, default=1, help='pictures at a time (1)')
    parser.add_argument(
        '--slice', type=int, metavar='PIXELS', help='look at windows of this size'
    )
    parser.add_argument(
        '--overlap', type=float, default=0.2, help='share that windows overlap (0.2)'
    )
    parser.add_argument('--device', help='cpu, cuda, cuda:1, …; by default a GPU')
    parser.add_argument('--amp', choices=['bf16', 'fp16'], help='mixed precision')
    parser.add_argument(
        '--no-draw', dest='draw', action='store_false', help='write the data alone'
    )
    return parser


def _pictures(model: Predictor, paths: Sequence[Path], args: argparse.Namespace) -> int:
    """Draw and write all that can be read; name the rest."""
    broken, file = [], _CocoFile(model)
    groups = [paths[i : i + args.batch] for i in range(0, len(paths), args.batch)]
    names = dict(zip(paths, sources.names(paths), strict=True))
    for group in _progress(groups, len(groups), args.batch):
        for path, result in _readable(model, group, args, broken):
            if args.draw:
                result.save(args.out / f'{names[path]}.jpg')
            if isinstance(result, Detections):
                file.add(path.name, result)
            else:
                result.save_labels(args.out / 'labels' / f'{names[path]}.png')
    file.write(args.out / 'predictions.json')
    print(f'{len(paths) - len(broken)} of {len(paths)} pictures: {args.out}')
    for message in broken:
        print(message)
    return int(bool(broken))


def _readable(
    model: Predictor,
    paths: Sequence[Path],
    args: argparse.Namespace,
    broken: list[str],
) -> Iterator[tuple[Path, Result]]:
    """Results of the pictures that can be read; why not for the others."""
    try:
        results = _predict(model, list(paths), args)
    except UserError as error:
        if len(paths) == 1:
            broken.append(str(error))
            return
        for path in paths:  # find the one that cannot
            yield from _readable(model, [path], args, broken)
        return
    yield from zip(paths, results, strict=True)


def _predict(
    model: Predictor, pictures: list, args: argparse.Namespace
) -> list[Result]:
    return model(
        pictures,
        score=args.score,
        batch=args.batch,
        slice=args.slice,
        overlap=args.overlap,
    )


def _video(model: Predictor, video: sources.Video, args: argparse.Namespace) -> int:
    """Draw every frame into a video of the same rate."""
    file, writer, count = _CocoFile(model), None, 0
    target = args.out / f'{video.path.stem}.mp4'
    part = target.with_name(f'.{target.name}')
    try:
        for frame in _progress(sources.frames(video), video.frames, 1):
            (result,) = _predict(model, [frame], args)
            if isinstance(result, Detections):
                file.add(f'{video.path.name}#{count}', result)
            if args.draw:
                drawn = result.draw()
                if writer is None:
                    size = drawn.shape[1::-1]
                    writer = _Writer(part, video.rate, size)
                writer.write(drawn)
            count += 1
    finally:
        if writer is not None:
            writer.close()
    if not count:
        raise UserError(f'{video.path} has no frame that can be read')
    if writer is not None:
        os.replace(part, target)
    file.write(args.out / 'predictions.json')
    print(f'{count} frames: {args.out}')
    return 0


class _Writer:
    """A video of pictures of one size."""

    def __init__(self, path: Path, rate: float, size: tuple[int, int]) -> None:
        self.size = tuple(size)
        code = cv2.VideoWriter_fourcc(*'mp4v')
        self._video = cv2.VideoWriter(str(path), code, rate, self.size)
        if not self._video.isOpened():
            raise UserError(f'{path} cannot be written as a video')

    def write(self, picture: np.ndarray) -> None:
        """Write a frame; a legend that grew is cut, one that shrank is filled up."""
        wide, high = self.size
        frame = np.full((high, wide, 3), 255, np.uint8)
        frame[: len(picture)] = picture[:high]
        self._video.write(np.ascontiguousarray(frame[..., ::-1]))

    def close(self) -> None:
        self._video.release()


class _CocoFile:
    """Objects of all pictures as one file of COCO's format, with scores."""

    def __init__(self, model: Predictor) -> None:
        self.classes = list(model.classes)
        self.images, self.annotations = [], []

    def add(self, name: str, result: Detections) -> None:
        height, width = result.image.shape[:2]
        number = len(self.images) + 1
        entry = {'id': number, 'file_name': name, 'height': height, 'width': width}
        self.images.append(entry)
        self.annotations += result.to_coco(number, len(self.annotations) + 1)
        self.classes += list(result.classes[len(self.classes) :])

    def write(self, path: Path) -> None:
        if not self.images:
            return
        categories = [{'id': i + 1, 'name': n} for i, n in enumerate(self.classes)]
        content = {
            'images': self.images,
            'categories': categories,
            'annotations': self.annotations,
        }
        write_whole(path, json.dumps(content).encode())


def _progress(items: Iterable, count: int, batch: int) -> Iterable:
    unit = 'predicting' if batch == 1 else f'predicting, {batch} at a time'
    return track(items, unit, total=count or None, transient=True)
