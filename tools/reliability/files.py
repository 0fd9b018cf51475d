"""Checkpoints that are damaged, or mean harm: named or read, never run."""

import random
import tempfile
import time
from argparse import Namespace
from pathlib import Path

import torch

from mmssm.weights import load_file
from tools.reliability.check import Check, Clock, Outcome

SECONDS = 5.0  # the longest that one file may take


def checks() -> list[Check]:
    """Each form of a file, damaged at random."""
    return [
        Check('Untrusted files', 'damaged `.pth`, zip', _of(_zipped), 5000),
        Check('Untrusted files', 'damaged `.pth`, legacy', _of(_legacy), 5000),
        Check('Untrusted files', 'damaged `.safetensors`', _of(_safe), 5000),
    ]


def damaged(good: bytes, dice: random.Random) -> bytes:
    """Some bytes changed, most of them at the front; one in five cut off."""
    content = bytearray(good)
    for _ in range(dice.choice([1, 1, 2, 4])):
        place = dice.randrange(min(len(content), dice.choice([700, len(content)])))
        content[place] = dice.randrange(256)
    if dice.random() < 0.2:
        del content[dice.randrange(len(content)) :]
    return bytes(content)


def _of(write):
    def run(clock: Clock, seed: int, most: int = 5000) -> Outcome:
        dice, read, failures, tried = random.Random(seed), 0, [], 0
        with tempfile.TemporaryDirectory() as name:
            path = write(Path(name))
            good = path.read_bytes()
            for number in clock.counts(most):
                path.write_bytes(damaged(good, dice))
                start = time.process_time()
                try:
                    load_file(path)
                    read += 1
                except ValueError as error:
                    if path.name not in str(error):
                        failures.append(f'file {number}: not named in {error}')
                except Exception as error:  # noqa: BLE001 (any other one is a failure)
                    failures.append(f'file {number}: {type(error).__name__}: {error}')
                if time.process_time() - start > SECONDS:
                    failures.append(f'file {number}: took over {SECONDS} s')
                tried = number + 1
        return Outcome(tried, failures, f'{read} could be read all the same')

    return run


def _content() -> dict:
    weights = {'a': torch.arange(6.0).view(2, 3), 'b': torch.ones(2).long()}
    return {'state_dict': weights, 'meta': Namespace(lr=1)}


def _zipped(folder: Path) -> Path:
    torch.save(_content(), folder / 'a.pth')
    return folder / 'a.pth'


def _legacy(folder: Path) -> Path:
    torch.save(_content(), folder / 'a.pth', _use_new_zipfile_serialization=False)
    return folder / 'a.pth'


def _safe(folder: Path) -> Path:
    from mmssm.weights import save_file

    save_file(_content()['state_dict'], folder / 'a.safetensors')
    return folder / 'a.safetensors'
