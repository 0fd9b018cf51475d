"""Nothing in a file runs, writes or changes anything; every damage has its words."""

import random
import resource
import time
import zipfile
from argparse import Namespace
from collections import Counter

import hostile
import pytest
import torch

from mmssm.weights import files, load_file
from tools.reliability.files import damaged

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


@pytest.mark.parametrize(
    ('case', 'reason'),
    [
        ('zip_persistent_module', 'something outside that is no storage'),
        ('legacy_persistent_module', 'something outside that is no storage'),
        ('zip_tensor_outside', r'tensor \(255,\) outside of its storage of 4'),
        ('zip_tensor_before', 'for sizes'),
        ('zip_tensor_repeated', 'that repeats 4 values'),
        ('zip_sparse_outside', 'size is inconsistent with indices'),
        ('zip_quantised_of_floats', 'quantised tensor of torch.float32'),
        ('zip_storage_of_another_width', 'has 16 of 32 bytes'),
        ('zip_storage_of_a_class', 'storage of kind'),
        ('legacy_storage_too_large', 'storage 0 of 4398046511104 bytes is cut off'),
        ('zip_many_opcodes', 'more than 2000000 opcodes'),
        ('zip_extension_1', 'uses EXT1'),
        ('zip_bomb_of_a_pickle', 'would unpack to'),
        ('zip_flipped', 'CRC'),
    ],
)
def test_the_reason_is_told(case, reason, tmp_path):
    path = hostile.write(tmp_path, 'a', hostile.CASES[case]())
    with pytest.raises(ValueError, match=reason):
        load_file(path)


@pytest.mark.parametrize(
    ('pickled', 'reason'),
    [
        (b'\x80\x02K\x01)R.', 'calls something that is no function'),
        (b'\x80\x02]K\x01K\x02s.', 'sets items of something that is no dict'),
    ],
)
def test_opcodes_that_fit_nothing_are_told(pickled, reason, tmp_path):
    with zipfile.ZipFile(tmp_path / 'a.pth', 'w') as archive:
        archive.writestr('a/data.pkl', pickled)
    with pytest.raises(ValueError, match=reason):
        load_file(tmp_path / 'a.pth')


def test_records_are_counted_together(tmp_path, monkeypatch):
    """Each within bounds, and all of them far more than the file."""
    monkeypatch.setattr(files, 'SPARE', 2**16)
    torch.save({name: torch.zeros(2**13) for name in 'abcd'}, tmp_path / 'a.pth')
    packed = tmp_path / 'b.pth'
    with (
        zipfile.ZipFile(tmp_path / 'a.pth') as a,
        zipfile.ZipFile(packed, 'w', zipfile.ZIP_DEFLATED) as b,
    ):
        for name in a.namelist():
            b.writestr(name, a.read(name))
    assert load_file(tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=r'data/\d would unpack to 32768 bytes'):
        load_file(packed)


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
