"""Nothing in a file runs, writes or changes anything; every damage has its words."""

import random
import resource
import time
from argparse import Namespace
from collections import Counter

import hostile
import pytest
import torch

from mmssm.weights import load_file

SECONDS, BYTES = 5, 2**29


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """An empty folder, in which a canary would be seen."""
    folder = tmp_path / 'empty'
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize('case', hostile.CASES)
def test_hostile_files_are_harmless(case, tmp_path):
    path = hostile.write(tmp_path, case, hostile.CASES[case]())
    files, before = sorted(tmp_path.rglob('*')), hostile.fingerprint()
    start, peak = time.process_time(), resource.getrusage(resource.RUSAGE_SELF)
    try:
        content = load_file(path)
    except ValueError as error:
        message = str(error)
        assert path.name in message
        assert f'{path.stat().st_size} bytes' in message
        assert len(message) < 700
    else:
        assert isinstance(content, dict)
        for value in content.values():
            assert not callable(value)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak.ru_maxrss
    assert time.process_time() - start < SECONDS
    assert grown * 1024 < BYTES
    assert sorted(tmp_path.rglob('*')) == files
    assert hostile.fingerprint() == before


@pytest.mark.parametrize('legacy', [False, True])
def test_flipped_and_cut_files_are_read_or_named(legacy, tmp_path):
    content = {
        'state_dict': {'a': torch.arange(6.0).view(2, 3), 'b': torch.ones(2).long()},
        'meta': Namespace(lr=1),
    }
    path = tmp_path / 'a.pth'
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    good, seen = path.read_bytes(), Counter()
    dice = random.Random(0)
    for _ in range(300):
        path.write_bytes(damaged(good, dice))
        try:
            load_file(path)
            seen['read'] += 1
        except ValueError as error:
            seen['named' if 'a.pth' in str(error) else 'unnamed'] += 1
    assert seen['named'] > 50
    assert not seen['unnamed']


def damaged(good: bytes, dice: random.Random) -> bytes:
    """Some bytes changed, most of them at the front; one in five cut off."""
    content = bytearray(good)
    for _ in range(dice.choice([1, 1, 2, 4])):
        place = dice.randrange(min(len(content), dice.choice([700, len(content)])))
        content[place] = dice.randrange(256)
    if dice.random() < 0.2:
        del content[dice.randrange(len(content)) :]
    return bytes(content)
