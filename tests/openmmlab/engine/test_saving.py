"""A file is whole or not there."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import mmengine
import pytest

from mmssm.openmmlab.engine import saving


@pytest.fixture
def backend():
    return saving.AtomicBackend()


def test_written_and_read(tmp_path, backend):
    backend.put(b'one', tmp_path / 'new/file')
    backend.put(b'two', tmp_path / 'new/file')
    backend.put_text('drei äöü', str(tmp_path / 'text'))
    assert backend.get(tmp_path / 'new/file') == b'two'
    assert backend.get_text(tmp_path / 'text') == 'drei äöü'
    assert sorted(p.name for p in tmp_path.rglob('*')) == ['file', 'new', 'text']


def test_failed_write_leaves_the_file_before(tmp_path, backend, monkeypatch):
    def full(descriptor):
        raise OSError('no space left on device')

    backend.put(b'good', tmp_path / 'file')
    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match='no space'):
        backend.put(b'bad', tmp_path / 'file')
    assert backend.get(tmp_path / 'file') == b'good'
    assert len(list(tmp_path.iterdir())) == 1


def test_link_stays_a_link(tmp_path, backend):
    (tmp_path / 'file').write_bytes(b'old')
    (tmp_path / 'link').symlink_to(tmp_path / 'file')
    backend.put(b'new', tmp_path / 'link')
    assert (tmp_path / 'link').is_symlink()
    assert (tmp_path / 'file').read_bytes() == b'new'


def test_files_of_two_threads_do_not_meet(tmp_path):
    contents = [bytes([number]) * 100_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(10):
            list(pool.map(partial(saving.write_whole, tmp_path / 'file'), contents))
    assert (tmp_path / 'file').read_bytes() in contents
    assert len(list(tmp_path.iterdir())) == 1


def test_permissions_are_those_of_other_new_files(tmp_path, backend):
    (tmp_path / 'plain').touch()
    backend.put(b'', tmp_path / 'whole')
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_leftovers_go_and_files_being_written_stay(tmp_path, monkeypatch):
    dead = tmp_path / '.epoch_1.pth.0123.tmp'
    dead.touch()
    seen = []

    def meanwhile(descriptor):
        saving.remove_leftovers(tmp_path)
        seen.extend(path.name for path in tmp_path.iterdir())

    monkeypatch.setattr(os, 'fsync', meanwhile)
    saving.write_whole(tmp_path / 'epoch_2.pth', b'2')
    (name,) = seen
    assert name.startswith('.epoch_2.pth.')
    assert (tmp_path / 'epoch_2.pth').read_bytes() == b'2'


def test_mmengine_writes_by_it(tmp_path, monkeypatch):
    saving.use_atomic_files()
    written = []
    monkeypatch.setattr(
        saving, 'write_whole', lambda path, _: written.append(str(path))
    )
    mmengine.dump({'a': 1}, tmp_path / 'a.json')
    mmengine.dump({'a': 1}, tmp_path / 'a.pkl')
    mmengine.fileio.put(b'', tmp_path / 'a')
    assert written == [f'{tmp_path}/a.json', f'{tmp_path}/a.pkl', f'{tmp_path}/a']


def test_removing_last(tmp_path, backend):
    old, same = tmp_path / 'old', tmp_path / 'same'
    for path in (old, same):
        path.write_bytes(b'1')
    with backend.removing_last():
        with backend.removing_last():
            backend.remove(old)
            backend.remove(same)
        assert old.exists()
        backend.put(b'2', same)
    assert not old.exists()
    assert same.read_bytes() == b'2'


def test_removing_last_keeps_all_after_an_error(tmp_path, backend):
    (tmp_path / 'old').touch()

    def remove_and_fail():
        with backend.removing_last():
            backend.remove(tmp_path / 'old')
            raise OSError('disk')

    with pytest.raises(OSError, match='disk'):
        remove_and_fail()
    assert (tmp_path / 'old').exists()
    backend.remove(tmp_path / 'old')
    assert not (tmp_path / 'old').exists()
