"""Files are written whole, in either form; what they hold is read right or named."""

import os
import sys
import threading
from argparse import Namespace
from collections import OrderedDict

import hostile
import numpy as np
import pytest
import torch
from torch import nn

from mmssm.weights import load_file, load_weights, save_file, unwrap, write_whole
from mmssm.weights.pickles import Foreign

TENSORS = {
    'bfloat16': torch.ones(2, dtype=torch.bfloat16),
    'float8': torch.ones(2).to(torch.float8_e4m3fn),
    'uint16': torch.ones(2, dtype=torch.uint16),
    'complex': torch.tensor([1 + 2j]).conj(),
    'bool': torch.tensor([True, False]),
    'number': torch.tensor(3),
    'empty': torch.empty(0, 3),
    'strided': torch.arange(6.0).view(2, 3).t()[1:],
    'parameter': nn.Parameter(torch.ones(2)),
    'sparse': torch.eye(3).to_sparse(),
    'compressed': torch.eye(3).to_sparse_csr(),
    'quantised': torch.quantize_per_tensor(torch.ones(2), 0.1, 3, torch.qint8),
    'quantised_by_channel': torch.quantize_per_channel(
        torch.ones(2, 3),
        torch.tensor([0.1, 0.2]),
        torch.tensor([0, 1]),
        0,
        torch.quint8,
    ),
}


class Config(dict):
    """A configuration as YACS and mmengine write it."""


class Items(list):
    pass


def plain(tensor):
    return (tensor.dequantize() if tensor.is_quantized else tensor).to_dense()


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('protocol', [2, 4])
@pytest.mark.parametrize('kind', TENSORS)
def test_tensors_beside_an_object(kind, zipped, protocol, tmp_path):
    content = {'state_dict': {'w': TENSORS[kind]}, 'args': Namespace(lr=1)}
    path = tmp_path / 'a.pth'
    torch.save(
        content,
        path,
        _use_new_zipfile_serialization=zipped,
        pickle_protocol=protocol,
    )
    read = load_file(path)['state_dict']['w']
    assert read.dtype == TENSORS[kind].dtype
    expected, found = plain(TENSORS[kind].detach()), plain(read)
    assert torch.equal(found.to(torch.complex128), expected.to(torch.complex128))


def test_tied_weights_stay_tied(tmp_path):
    w = torch.zeros(4)
    torch.save({'a': w, 'b': w[1:]}, tmp_path / 'a.pth')
    read = load_file(tmp_path / 'a.pth')
    read['a'][1] = 7
    assert read['b'][0] == 7


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize(
    'array',
    [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype='i2').reshape(2, 3)),
        np.arange(3, dtype='>f4'),
        np.array(2, dtype='u1'),
        np.array([True, False]),
        np.array([1 + 2j], dtype='>c16'),
    ],
)
def test_arrays_of_numpy_are_weights(array, zipped, tmp_path):
    content = {'state_dict': {'w': array, 'n': np.float32(0.5)}}
    torch.save(content, tmp_path / 'a.pth', _use_new_zipfile_serialization=zipped)
    read = load_file(tmp_path / 'a.pth')['state_dict']
    native = array.astype(array.dtype.newbyteorder('='))
    assert torch.equal(read['w'], torch.from_numpy(native))
    assert read['n'] == 0.5


def test_what_is_no_tensor_is_named_not_dropped_in_silence(tmp_path):
    content = {'a': torch.ones(1), 'b': np.array([None]), 'c': torch.ones(1).to('meta')}
    torch.save({'state_dict': content}, tmp_path / 'a.pth')
    with pytest.warns(UserWarning, match=r'left out: b \(a NumPy array.*c \(.* meta'):
        assert list(unwrap(load_file(tmp_path / 'a.pth'))) == ['a']


def test_objects_are_inert_and_keep_their_items(tmp_path):
    content = {
        'config': Config(a=1, b=Config(c='d')),
        'items': Items([1, 2]),
        'args': Namespace(lr=1),
        'module': nn.Linear(2, 2),
        'function': torch.load,
        'ordered': OrderedDict(a=1),
        'plain': [1, 2.5, None, {3}, b'\xff', 2**100, (True,), 1j, bytearray(b'a')],
    }
    torch.save(content, tmp_path / 'a.pth')
    read = load_file(tmp_path / 'a.pth')
    assert read['plain'] == content['plain']
    assert read['ordered'] == content['ordered']
    assert read['config'] == {'a': 1, 'b': {'c': 'd'}}
    assert list(read['items'].values()) == [1, 2]
    for name in ('config', 'items', 'args', 'module', 'function'):
        assert type(read[name]) is Foreign
        assert not hasattr(read[name], '__dict__')
    assert read['args'].name == 'argparse.Namespace'


def test_sparse_and_quantised_weights_are_loaded():
    layer = nn.Linear(3, 3, bias=False)
    load_weights(layer, {'weight': torch.eye(3).to_sparse()})
    assert torch.equal(layer.weight, torch.eye(3))
    load_weights(
        layer, {'weight': torch.quantize_per_tensor(torch.eye(3), 1, 0, torch.qint8)}
    )
    assert torch.equal(layer.weight, torch.eye(3))


def test_other_byte_order(tmp_path):
    values = {'w': torch.arange(3.0), 'n': torch.arange(3), 'c': torch.tensor([1 + 2j])}
    swapped = {}
    for name, value in values.items():
        raw = value.numpy().astype(value.numpy().dtype.newbyteorder('>')).tobytes()
        swapped[name] = torch.frombuffer(bytearray(raw), dtype=value.dtype)
    import zipfile

    torch.save(swapped, tmp_path / 'little.pth')
    with (
        zipfile.ZipFile(tmp_path / 'little.pth') as source,
        zipfile.ZipFile(tmp_path / 'big.pth', 'w') as target,
    ):
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, b'big' if name.endswith('byteorder') else content)
    read = load_file(tmp_path / 'big.pth')
    assert all(torch.equal(read[name], value) for name, value in values.items())


@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        (b'', 'it is empty'),
        (b'hello world', "it is text: 'hello world'"),
        (b'\n<!DOCTYPE html><p>not found', 'a web page'),
        (b'version https://git-lfs.github.com/spec/v1\n', 'git lfs pull'),
        (b'\x1f\x8b' + bytes(9), 'gunzip'),
        (bytes(257) + b'ustar' + bytes(250), 'tar archive'),
    ],
)
def test_files_that_are_something_else_say_what(content, reason, tmp_path):
    (tmp_path / 'a.pth').write_bytes(content)
    with pytest.raises(ValueError, match=reason) as caught:
        load_file(tmp_path / 'a.pth')
    assert f'{len(content)} bytes' in str(caught.value)


def test_a_program_of_torchscript_says_so(tmp_path):
    program = torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2))
    torch.jit.save(program, str(tmp_path / 'a.pth'))
    with pytest.raises(ValueError, match='TorchScript program'):
        load_file(tmp_path / 'a.pth')


def test_a_list_is_no_checkpoint(tmp_path):
    torch.save([torch.ones(1)], tmp_path / 'a.pth')
    with pytest.raises(ValueError, match='holds a list'):
        load_file(tmp_path / 'a.pth')


def test_safetensors_are_written_and_read(tmp_path):
    pytest.importorskip('safetensors')
    shared = torch.arange(6.0)
    content = {'a': shared, 'b': shared.view(2, 3).t(), 'c': nn.Parameter(shared[1:])}
    save_file(content, tmp_path / 'a.safetensors')
    (tmp_path / 'renamed.pth').write_bytes((tmp_path / 'a.safetensors').read_bytes())
    for name in ('a.safetensors', 'renamed.pth'):
        read = load_file(tmp_path / name)
        assert read.keys() == content.keys()
        assert all(torch.equal(read[k], content[k]) for k in content)


@pytest.mark.parametrize('content', [{'a': 1}, {'a': torch.eye(2).to_sparse()}])
def test_what_safetensors_cannot_hold_is_named(content, tmp_path):
    pytest.importorskip('safetensors')
    with pytest.raises(ValueError, match=r'a\.safetensors.*as \.pth'):
        save_file(content, tmp_path / 'a.safetensors')
    assert list(tmp_path.iterdir()) == []


def test_absent_safetensors_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'safetensors', None)
    with pytest.raises(ImportError, match='pip install safetensors'):
        save_file({'a': torch.ones(1)}, tmp_path / 'a.safetensors')


@pytest.mark.parametrize('umask', [0o077, 0o022, 0o002])
def test_new_files_have_the_permissions_of_the_umask(umask, tmp_path):
    before = os.umask(umask)
    try:
        write_whole(tmp_path / 'a', b'x')
    finally:
        os.umask(before)
    assert (tmp_path / 'a').stat().st_mode & 0o777 == 0o666 & ~umask


def test_replaced_files_keep_their_permissions_and_links_stay(tmp_path):
    write_whole(tmp_path / 'real', b'old')
    (tmp_path / 'real').chmod(0o640)
    (tmp_path / 'link').symlink_to('real')
    write_whole(tmp_path / 'link', b'new')
    assert (tmp_path / 'link').is_symlink()
    assert (tmp_path / 'real').read_bytes() == b'new'
    assert (tmp_path / 'real').stat().st_mode & 0o777 == 0o640


def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path):
    write_whole(tmp_path / 'a', b'old')

    def fail(file):
        file.write(b'half')
        raise OSError('disk full')

    with pytest.raises(OSError, match='disk full'):
        write_whole(tmp_path / 'a', fail)
    assert [p.name for p in tmp_path.iterdir()] == ['a']
    assert (tmp_path / 'a').read_bytes() == b'old'


def test_writers_of_one_path_do_not_disturb_each_other(tmp_path):
    errors = []

    def write(content):
        for _ in range(50):
            try:
                write_whole(tmp_path / 'a', content)
            except OSError as error:
                errors.append(error)

    threads = [threading.Thread(target=write, args=(c * 10_000,)) for c in (b'a', b'b')]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len({*(tmp_path / 'a').read_bytes()}) == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_content_is_on_the_disk_before_it_is_moved(tmp_path, monkeypatch):
    order = []
    sync, move = os.fsync, os.replace
    monkeypatch.setattr(os, 'fsync', lambda f: (order.append('sync'), sync(f)))
    monkeypatch.setattr(os, 'replace', lambda *a: (order.append('move'), move(*a)))
    write_whole(tmp_path / 'a', b'x')
    assert order == ['sync', 'move']


@pytest.mark.parametrize('first', [0, 1])
def test_parts_of_an_old_storage(first, tmp_path):
    part = b'(' + hostile.text('part') + bytes([75, first, 75, 3]) + b't'  # start, size
    storage = hostile.storage()[:-2] + part + b'tQ'
    tensor = hostile.tensor(storage, size=b'K\x03\x85')
    content = hostile.struct.pack('<q4f', 4, 0, 1, 2, 3)
    path = tmp_path / 'a.pth'
    path.write_bytes(hostile.legacy(hostile.weights(tensor), content, ['0']))
    assert load_file(path)['w'].tolist() == [first, first + 1, first + 2]


def test_state_of_a_foreign_object_is_dropped(tmp_path):
    torch.save({'w': torch.ones(1), 'args': Namespace(lr=0.1)}, tmp_path / 'a.pth')
    args = load_file(tmp_path / 'a.pth')['args']
    assert args.name == 'argparse.Namespace'
    assert len(args) == 0
    assert not hasattr(args, 'lr')
