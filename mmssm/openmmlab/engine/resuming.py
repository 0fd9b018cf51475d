"""Which checkpoint a run goes on from."""

import re
import zipfile
from pathlib import Path

from mmengine.config import Config

from mmssm.openmmlab.engine.loading import check_exists, read_checkpoint
from mmssm.openmmlab.errors import UserError


def latest_checkpoint(folder: str | Path) -> tuple[str | None, list[str]]:
    """The newest complete checkpoint of a work_dir, and the broken ones passed over.

    First the one that mmengine noted in the file last_checkpoint, then epoch_N.pth,
    iter_N.pth and stopped_iter_N.pth, the newest first.
    """
    folder = Path(folder).resolve()
    numbered = [
        path
        for path in folder.glob('*.pth')
        if re.fullmatch(r'(epoch|(stopped_)?iter)_\d+\.pth', path.name)
    ]
    candidates = sorted(numbered, key=lambda p: p.stat().st_mtime, reverse=True)
    note = folder / 'last_checkpoint'
    noted = Path(note.read_text().strip() if note.is_file() else '')
    if noted.name and noted.exists():
        candidates.insert(0, noted.resolve())
    broken = []
    for path in dict.fromkeys(candidates):
        # DeepSpeed writes folders; a file's zip directory stands at its very end
        if path.is_dir() or zipfile.is_zipfile(path):
            return str(path), broken
        broken.append(str(path))
    return None, broken


def read_run(path: str) -> dict:
    """A checkpoint of a run; UserError for weights alone."""
    checkpoint = read_checkpoint(path)
    lacking = [key for key in ('meta', 'optimizer') if key not in checkpoint]
    if lacking:
        raise UserError(
            f'{path} has no {" and no ".join(lacking)}: these are weights alone, and '
            'no state of a training that could go on. To start from the weights: '
            f'--cfg-options load_from={path}, without --resume'
        )
    return checkpoint


def resolve_resume(cfg: Config, resume: str | None) -> list[str]:
    """Set load_from, resume and, from the checkpoint, the seed; lines for the log."""
    if resume == 'auto':
        cfg.resume, cfg.load_from = True, None
    elif resume is not None:
        cfg.resume, cfg.load_from = True, resume
    cfg.resume = bool(cfg.get('resume'))
    notes = []
    if cfg.resume and cfg.get('load_from') is None:
        cfg.load_from, broken = latest_checkpoint(cfg.work_dir)
        notes = [f'{path} is not complete; it is passed over' for path in broken]
        if cfg.load_from is None:
            cfg.resume = False
            notes.append(f'no checkpoint in {cfg.work_dir}: training starts anew')
    if cfg.get('load_from') is not None:
        check_exists(cfg.load_from)
    if cfg.resume:
        if '://' in cfg.load_from:
            raise UserError(
                f'--resume {cfg.load_from}: a run goes on from a file on this machine; '
                'download it first'
            )
        # DeepSpeed's checkpoints are folders, which only DeepSpeed reads
        run = {} if Path(cfg.load_from).is_dir() else read_run(cfg.load_from)
        if (cfg.get('randomness') or {}).get('seed') is None:
            # the sampler is built with the seed before mmengine resumes it
            seed = run.get('meta', {}).get('seed')
            cfg.merge_from_dict({'randomness': {'seed': seed}})
        notes.append(f'resuming from {cfg.load_from}')
    return notes
