"""What the demo's results follow from, where they are read, how they are written."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ('torch', 'numpy', 'opencv-python', 'opencv-python-headless')
MM_PACKAGES = ('mmengine', 'mmcv', 'mmdetection', 'mmdet', 'mmsegmentation')


def write_text(path: Path, text: str) -> None:
    """Write a file that is complete or not there."""
    temporary = path.with_name(f'.{path.name}')
    temporary.write_text(text)
    os.replace(temporary, path)


def write_json(path: Path, content: object) -> None:
    """`write_text` for JSON."""
    write_text(path, json.dumps(content, indent=2) + '\n')


def _digest(paths: Iterable[Path]) -> str:
    total = hashlib.sha256()
    for path in sorted(paths):
        total.update(path.relative_to(ROOT).as_posix().encode() + b'\0')
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:16]


def versions() -> dict[str, str]:
    """Of the installed packages that numbers may depend on."""
    found = {}
    for name in (*PACKAGES, *MM_PACKAGES, *(f'onedl-{name}' for name in MM_PACKAGES)):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def sources() -> str:
    """A digest of the package and of the tools that train and test."""
    tools = [ROOT / 'tools/train.py', ROOT / 'tools/test.py']
    return _digest([*ROOT.glob('mmssm/**/*.py'), *tools])


def device() -> str:
    """The name of the GPU that the tools will use, or 'CPU'."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else 'CPU'


def fingerprint(
    model: str, configs: Iterable[Path], data: Path, options: list[str]
) -> dict:
    """All that the results follow from; any change means other results."""
    bases = [
        ROOT.glob(f'configs/{folder}/**/*.py') for folder in ('_base_', 'demo/_base_')
    ]
    return dict(
        model=model,
        configs=_digest([*bases[0], *bases[1], *configs]),
        options=options,
        data=json.loads((data / 'manifest.json').read_text())['digest'][:16],
        sources=sources(),
        packages=versions(),
        device=device(),
    )


def key_of(content: Mapping) -> str:
    """Ten characters that stand for a fingerprint."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]


def read_metrics(folder: Path, wanted: Mapping[str, str]) -> dict[str, float]:
    """The metrics that mmengine's test wrote under its work_dir, as fractions."""
    (path,) = folder.glob('*/*.json')
    found = json.loads(path.read_text())
    # mmseg writes per cent, mmdet fractions, or nothing when nothing was detected.
    scale = {key: 1 if key.startswith('coco/') else 100 for key in wanted.values()}
    return {
        name: round(found.get(key, 0.0) / scale[key], 4) for name, key in wanted.items()
    }


def _clock(seconds: float) -> str:
    return f'{int(seconds) // 60}:{int(seconds) % 60:02d}'


def table(tasks: Mapping[str, Mapping]) -> str:
    """Markdown, a row for each task: what was measured, and the minutes it took."""
    lines = [
        '| task | method | on the held-out pictures | training | evaluation |',
        '| --- | --- | --- | --- | --- |',
    ]
    for name, task in tasks.items():
        metrics = ', '.join(
            f'{key} {value:.3f}' for key, value in task['metrics'].items()
        )
        training = _clock(task['training_seconds']) + (
            ' (after an interruption)' if task['resumed'] else ''
        )
        evaluation = _clock(task['evaluation_seconds'])
        lines.append(
            f'| {name} | {task["method"]} | {metrics} | {training} | {evaluation} |'
        )
    return '\n'.join(lines) + '\n'
