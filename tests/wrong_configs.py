"""Configs of a detector and a segmenter with one thing wrong, trained by the command.

    python tests/wrong_configs.py 500 [SEED]  # the last line is JSON

A key is misspelt, left out or gets a value of another kind.  A mutant is explained when
it trains, or when one line names the key path with the key or the value.  A misspelt
key that trains all the same is not.
"""

import contextlib
import io
import json
import random
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config
from openmmlab.engine import tiny

from mmssm.openmmlab import cli

ROOTS = (
    *('model', 'train_dataloader', 'val_dataloader', 'train_cfg', 'val_cfg'),
    *('val_evaluator', 'optim_wrapper', 'default_hooks', 'visualizer', 'log_processor'),
    *('randomness', 'auto_scale_lr', 'param_scheduler'),
)
VALUES = [None, 'x', '', -1, 0, 1.5, True, [], {}, [1, 2], ['a'], {'type': 'Nope'}]
# names that are the user's own, and settings that only other modes read
FREE = ('metainfo', 'auto_scale_lr')


class Mutant(NamedTuple):
    """What is wrong: the path of the key, how, and the new name or value."""

    key: str
    how: str
    new: Any


def places(node: Any, key: str) -> list[tuple[Any, Any, str]]:
    """(dict or list, key, path) of every setting."""
    found = []
    pairs = node.items() if isinstance(node, dict) else enumerate(node)
    for name, part in pairs:
        path = f'{key}.{name}' if isinstance(node, dict) else f'{key}[{name}]'
        found.append((node, name, path))
        if isinstance(part, dict | list | tuple) and name not in FREE:
            found += places(part, path)
    return found


def mutate(content: dict, draw: random.Random) -> Mutant:
    """Do one thing wrong in a config, in place."""
    root = draw.choice([r for r in ROOTS if content.get(r) is not None])
    if draw.random() < 0.05:
        spelt = misspell(root, draw)
        content[spelt] = content.pop(root)
        return Mutant(root, 'misspelt', spelt)
    node, name, path = draw.choice(places(content[root], root))
    if isinstance(node, tuple):
        return mutate(content, draw)
    how = draw.choice(['misspelt', 'kind', 'kind', 'left out'])
    if how == 'kind' or isinstance(node, list):
        node[name] = draw.choice(VALUES)
        return Mutant(path, 'kind', node[name])
    if how == 'left out':
        del node[name]
        return Mutant(path, how, None)
    spelt = misspell(str(name), draw)
    node[spelt] = node.pop(name)
    return Mutant(path, how, spelt)


def misspell(name: str, draw: random.Random) -> str:
    """Two letters the wrong way round, one too few or one twice."""
    at = draw.randrange(len(name))
    choices = [name[:at] + name[at + 1 :], name[: at + 1] + name[at:]]
    if at + 1 < len(name):
        choices.append(name[:at] + name[at + 1] + name[at] + name[at + 2 :])
    spelt = draw.choice(choices)
    return spelt if spelt not in ('', name) and spelt.isidentifier() else f'{name}x'


def outcome(config: Path, mutant: Mutant, number: int) -> str:
    """'works', 'clear', or what the user is left with."""
    work_dir = str(config.parent / 'run')
    options = ['--work-dir', work_dir, '--cfg-options', f'experiment_name=w{number}']
    quiet = io.StringIO()
    try:
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            cli.train([str(config), *options])
    except SystemExit as error:
        text = str(error.code)
    except BaseException as error:  # noqa: BLE001 (every other one is reported)
        return f'{type(error).__name__}: {error}'
    else:
        return 'unnoticed' if mutant.how == 'misspelt' else 'works'
    key = re.sub(r'(\[\d+\])+$', '', mutant.key) if mutant.how == 'kind' else mutant.key
    parent, _, name = key.replace('[', '.').replace(']', '').rpartition('.')
    flat = text.replace('[', '.').replace(']', '')
    named = mutant.key.replace('[', '.').replace(']', '') in flat
    words = (name, str(mutant.new), repr(mutant.new))
    named = named or (parent in flat and any(word in text for word in words))
    short = len(text.splitlines()) < 2 or 'there is nothing at' in text
    return 'clear' if named and short else text


def unclear(count: int, seed: int = 0) -> tuple[list[str], Counter]:
    """The mutants that are not explained, and how many there are of each outcome."""
    draw = random.Random(seed)
    found, counts = [], Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny.write_data(folder / 'data')
        for number in range(count):
            task = draw.choice(['detection', 'segmentation'])
            content = Config.fromfile(tiny.write_config(folder, task)).to_dict()
            content['train_cfg'].update(max_iters=1) if task == 'segmentation' else None
            content['param_scheduler'] = [dict(type='ConstantLR', factor=1.0, end=2)]
            mutant = mutate(content, draw)
            path = folder / f'wrong_{task}.py'
            Config(content).dump(path)
            result = outcome(path, mutant, number)
            counts[result if result in ('works', 'clear', 'unnoticed') else 'raw'] += 1
            if result not in ('works', 'clear'):
                found.append(f'{task} {mutant}: {result}')
    return found, counts


if __name__ == '__main__':
    lines, totals = unclear(int(sys.argv[1]), int(sys.argv[2]) if sys.argv[2:] else 0)
    print(*lines, dict(totals), json.dumps(lines), sep='\n')  # noqa: T201
