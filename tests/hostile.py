"""Files that mean harm, made by hand: builders by name, each (folder) -> path."""

import io
import pickle
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import torch
from torch.serialization import MAGIC_NUMBER, PROTOCOL_VERSION

START, STOP = b'\x80\x02', b'.'


def text(value):
    raw = value.encode()
    return b'X' + struct.pack('<I', len(raw)) + raw


def name(module, attribute):
    return f'c{module}\n{attribute}\n'.encode()


def state(**items):
    """Slot state for BUILD: (None, {...})."""
    inner = b''.join(text(k) + text(v) for k, v in items.items())
    return b'(N}(' + inner + b'ut'


def legacy(body, storages=b'', keys=()):
    parts = [pickle.dumps(x, 2) for x in (MAGIC_NUMBER, PROTOCOL_VERSION)]
    parts.append(pickle.dumps({'little_endian': True}, 2))
    return b''.join([*parts, body, pickle.dumps(list(keys), 2), storages])


def archive(body, records=(), root='a/', compress=zipfile.ZIP_STORED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w', compress) as file:
        if body is not None:
            file.writestr(f'{root}data.pkl', body)
        for key, content in records:
            file.writestr(key, content)
    return out.getvalue()


def storage(key='0', count=4, kind='FloatStorage', module='torch'):
    size = b'\x8a\x08' + struct.pack('<q', count)
    return (
        b'('
        + text('storage')
        + name(module, kind)
        + text(key)
        + text('cpu')
        + size
        + b'tQ'
    )


def tensor(store, offset=b'K\x00', size=b'K\x04\x85', stride=b'K\x01\x85'):
    return name('torch._utils', '_rebuild_tensor_v2') + (
        b'(' + store + offset + size + stride + b'\x89}tR'
    )


def weights(value):
    return START + b'}' + text('w') + value + b's' + STOP


def call(module, attribute, argument):
    return name(module, attribute) + b'(' + text(argument) + b'tR'


FOUR = ('a/data/0', bytes(16))
CODE = "open('canary', 'w').close()"


def bodies():
    """name -> pickle, each to be put into a file of either form."""
    rebuild = name('torch._utils', '_rebuild_tensor_v2')
    yield (
        'build_on_function',
        weights(rebuild + state(__name__='canary', dump_patches='1') + b'b'),
    )
    yield (
        'build_on_storage_class',
        weights(name('torch', 'FloatStorage') + state(planted='x') + b'b'),
    )
    yield (
        'build_on_tensor_class',
        weights(name('torch', 'Tensor') + state(planted='x') + b'b'),
    )
    yield (
        'build_on_typed_storage',
        weights(name('torch', 'TypedStorage') + state(planted='x') + b'b'),
    )
    yield (
        'build_on_dtype',
        weights(name('torch', 'float32') + state(planted='x') + b'b'),
    )
    yield 'build_on_tensor', weights(tensor(storage()) + state(data='x') + b'b')
    yield (
        'build_on_ordered_dict',
        weights(name('collections', 'OrderedDict') + b')R' + state(update='x') + b'b'),
    )
    yield (
        'build_on_ordered_dict_class',
        weights(name('collections', 'OrderedDict') + state(planted='x') + b'b'),
    )
    for module, attribute in (
        ('os', 'system'),
        ('posix', 'system'),
        ('subprocess', 'getoutput'),
    ):
        yield (
            f'reduce_{module}',
            weights(call(module, attribute, 'touch canary')),
        )
    for module, attribute in (
        ('builtins', 'eval'),
        ('builtins', 'exec'),
        ('__builtin__', 'eval'),
        ('torch', 'serialization.os.system'),
        ('torch.serialization', 'os.system'),
        ('torch._utils', 'importlib.import_module'),
        ('timeit', 'timeit'),
        ('runpy', '_run_code'),
        ('torch.jit', 'load'),
        ('torch', 'load'),
        ('torch.hub', 'load'),
        ('pathlib', 'Path.touch'),
        ('shutil', 'rmtree'),
        ('torch.nn', 'Linear'),
    ):
        yield f'reduce_{module}.{attribute}', weights(call(module, attribute, CODE))
    yield (
        'getattr',
        weights(
            name('builtins', 'getattr')
            + b'('
            + name('torch', 'serialization')
            + text('os')
            + b'tR'
        ),
    )
    yield (
        'stack_global',
        weights(text('os') + text('system') + b'\x93(' + text('touch canary') + b'tR'),
    )
    yield (
        'stack_global_of_parts',
        weights(
            text('torch') + text('os.system') + b'\x93(' + text('touch canary') + b'tR'
        ),
    )
    yield 'stack_global_of_numbers', weights(b'K\x01K\x02\x93')
    yield (
        'instance',
        weights(b'(' + text('touch canary') + b'ios\nsystem\n'),
    )
    yield (
        'object',
        weights(b'(' + name('os', 'system') + text('touch canary') + b'o'),
    )
    yield (
        'new_object',
        weights(name('os', 'system') + b'(' + text('touch canary') + b't\x81'),
    )
    yield (
        'new_object_with_keywords',
        weights(name('subprocess', 'Popen') + b'(' + text('touch canary') + b't}\x92'),
    )
    for width, code in ((b'\x82', b'\x01'), (b'\x83', b'\x01\x00')):
        yield f'extension_{len(code)}', weights(width + code)
    yield 'next_buffer', weights(b'\x97')
    yield (
        'persistent_module',
        weights(
            b'('
            + text('module')
            + name('torch.nn', 'Linear')
            + text('canary')
            + text('other source')
            + b'tQ'
        ),
    )
    yield 'persistent_text', weights(b'Pcanary\n')
    yield 'persistent_list', weights(b']Q')
    yield 'persistent_empty', weights(b')Q')
    yield 'persistent_number', weights(b'K\x01Q')
    yield 'storage_of_a_class', weights(storage(kind='os.system', module='torch'))
    yield 'storage_of_a_dict', weights(b'(' + text('storage') + b'}tQ')
    yield 'storage_too_large', weights(tensor(storage(count=2**40)))
    yield 'storage_of_no_size', weights(tensor(storage(count=-4)))
    yield 'storage_elsewhere', weights(tensor(storage(key='../../etc/passwd')))
    yield 'storage_absolute', weights(tensor(storage(key='/etc/passwd')))
    yield 'storage_of_another_width', weights(tensor(storage(kind='DoubleStorage')))
    big = b'\x8a\x06' + struct.pack('<q', 2**40)[:6]
    yield 'tensor_outside', weights(tensor(storage(), size=b'K\xff\x85'))
    yield 'tensor_far_outside', weights(tensor(storage(), size=big + b'\x85'))
    yield (
        'tensor_repeated',
        weights(tensor(storage(), b'K\x00', big + b'\x85', b'K\x00\x85')),
    )
    yield 'tensor_before', weights(tensor(storage(), offset=b'J\xff\xff\xff\xff'))
    yield 'tensor_of_no_storage', weights(tensor(b'N'))
    yield 'tensor_of_strange_sizes', weights(tensor(storage(), size=text('abc')))
    yield (
        'tensor_of_many_dimensions',
        weights(
            tensor(
                storage(),
                b'K\x00',
                b'(' + b'K\x01' * 100 + b't',
                b'(' + b'K\x01' * 100 + b't',
            )
        ),
    )
    yield 'nested_tuples', weights(b'K\x01' + b'\x85' * 100_000)
    yield 'nested_lists', weights(b']' * 100_000 + b'a' * 99_999)
    yield 'nested_marks', weights(b'(' * 100_000)
    yield 'nested_dicts', weights(b'}K\x00' * 100_000 + b'N' + b's' * 100_000)
    yield (
        'tuple_doubled_as_key',
        START + b'})' + b'2\x86' * 100 + b'Ns.',
    )
    yield 'list_doubled', weights(b']' + b'2\x86' * 1000)
    yield 'list_in_itself', weights(b']q\x00h\x00a')
    yield 'memo_of_nothing', weights(b'h\x05')
    yield 'memo_far_away', weights(b'Nr\xff\xff\xff\xff')
    yield 'huge_long', weights(b'\x8b' + struct.pack('<i', 2**31 - 1) + b'\x01')
    yield (
        'long_of_a_megabyte',
        weights(b'\x8b' + struct.pack('<i', 10**6) + b'\x7f' * 10**6),
    )
    yield 'long_of_digits', weights(b'L' + b'9' * 100_000 + b'L\n')
    yield 'long_text', weights(b'X\xff\xff\xff\xff')
    yield 'longer_text', weights(b'\x8d' + struct.pack('<Q', 2**62))
    yield 'longer_bytes', weights(b'\x96' + struct.pack('<Q', 2**62))
    yield 'no_text', weights(b'X\x02\x00\x00\x00\xff\xfe')
    yield (
        'keys_that_collide',
        START
        + b'}('
        + b''.join(
            b'\x8a\x0a' + ((2**61 - 1) * i).to_bytes(10, 'little') + b'N'
            for i in range(1, 50_000)
        )
        + b'u.',
    )
    yield 'key_of_a_list', START + b'}]Ns.'
    yield 'empty_stack', START + b'R.'
    yield 'empty_marks', START + b't.'
    yield 'no_stop', START + b'}'
    yield 'many_opcodes', START + b'N0' * 2_500_000 + b'}.'
    yield (
        'bytearray_of_a_number',
        weights(
            name('builtins', 'bytearray')
            + b'\x8a\x06'
            + bytes([0] * 5 + [127])
            + b'\x85R'
        ),
    )
    yield 'set_of_lists', weights(name('builtins', 'set') + b'(]]lt' + b'R')
    yield 'complex_of_text', weights(call('builtins', 'complex', '9' * 100_000))
    yield (
        'codec',
        weights(name('_codecs', 'encode') + b'(' + text('x') + text('zlib') + b'tR'),
    )
    yield 'device', weights(call('torch', 'device', 'nowhere'))
    numpy = name('numpy.core.multiarray', '_reconstruct') + b')R'
    yield (
        'numpy_of_objects',
        weights(
            numpy
            + b'(K\x01K\x01\x85'
            + name('numpy', 'dtype')
            + b'('
            + text('O8')
            + b'tR(K\x03'
            + text('|')
            + b'tb\x89](Neatb'
        ),
    )
    yield (
        'numpy_too_small',
        weights(
            numpy
            + b'(K\x01K\xff\x85'
            + name('numpy', 'dtype')
            + b'('
            + text('f8')
            + b'tR(K\x03'
            + text('<')
            + b'tb\x89'
            + text('abc')
            + b'tb'
        ),
    )
    yield 'numpy_without_state', weights(numpy + b'Nb')
    yield (
        'sparse_outside',
        weights(
            name('torch._utils', '_rebuild_sparse_tensor')
            + b'('
            + call('torch.serialization', '_get_layout', 'torch.sparse_coo')
            + b'('
            + tensor(
                storage(kind='LongStorage'),
                b'K\x00',
                b'K\x01K\x02\x86',
                b'K\x02K\x01\x86',
            )
            + tensor(storage(), b'K\x00', b'K\x02\x85')
            + b'K\x00\x85tttR'
        ),
    )
    yield (
        'quantised_of_floats',
        weights(
            name('torch._utils', '_rebuild_qtensor')
            + b'('
            + storage()
            + b'K\x00K\x04\x85K\x01\x85'
            + name('torch', 'per_tensor_affine')
            + b'G'
            + struct.pack('>d', 0.1)
            + b'K\x00\x87\x89}tR'
        ),
    )
    yield 'layout', weights(call('torch.serialization', '_get_layout', 'torch.load'))
    deep = b')'
    for _ in range(3000):
        deep = (
            b'(' + name('torch._tensor', '_rebuild_from_type_v2') + b'N' + deep + b't'
        )
    yield (
        'type_in_type',
        weights(name('torch._tensor', '_rebuild_from_type_v2') + deep + b'R'),
    )


def small_tar():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode='w') as tar:
        for key in ('storages', 'tensors', 'pickle', '../canary'):
            info = tarfile.TarInfo(key)
            info.size = 4
            tar.addfile(info, io.BytesIO(b'\x80\x02N.'))
    return out.getvalue()


def bomb():
    return archive(
        weights(tensor(storage(count=2**26))),
        [('a/data/0', bytes(2**28))],
        compress=zipfile.ZIP_DEFLATED,
    )


def lying_bomb():
    """The archive says 16 bytes, the stream unpacks to 64 MiB."""
    packed = zlib.compressobj(9, zlib.DEFLATED, -15)
    content = packed.compress(bytes(2**26)) + packed.flush()
    raw = bytearray(
        archive(weights(tensor(storage())), [FOUR], compress=zipfile.ZIP_DEFLATED)
    )
    return bytes(raw[: len(raw) // 2]) + content + bytes(raw[len(raw) // 2 :])


def one_tensor():
    return archive(weights(tensor(storage())), [FOUR])


def files():
    """name -> content of a file that is wrong as a file."""
    good = one_tensor()
    directory = good.rindex(b'PK\x01\x02')
    yield 'tar', small_tar()
    yield 'zip_bomb', bomb()
    yield 'zip_bomb_that_lies', lying_bomb()
    yield (
        'zip_bomb_of_a_pickle',
        archive(START + b'N0' * 2**27 + b'}.', compress=zipfile.ZIP_DEFLATED),
    )
    yield 'zip_without_pickle', archive(None, [FOUR])
    yield 'zip_with_two_pickles', archive(weights(b'N'), [('b/data.pkl', b'}.')])
    yield 'zip_without_storage', archive(weights(tensor(storage())))
    yield (
        'zip_storage_of_another_size',
        archive(weights(tensor(storage())), [('a/data/0', bytes(15))]),
    )
    yield (
        'zip_with_paths',
        archive(
            weights(tensor(storage(key='../../canary'))),
            [
                ('a/data/../../canary', bytes(16)),
                ('/tmp/canary', b'x'),
                ('../canary', b''),
            ],
        ),
    )
    yield (
        'zip_byte_order',
        archive(weights(tensor(storage())), [FOUR, ('a/byteorder', b'middle')]),
    )
    yield (
        'zip_long_byte_order',
        archive(weights(tensor(storage())), [FOUR, ('a/byteorder', bytes(10**6))]),
    )
    yield 'zip_directory_cut', good[: directory + 20]
    yield 'zip_directory_gone', good[:directory]
    yield 'zip_directory_elsewhere', good[:-6] + b'\xff\xff\xff\x7f' + good[-2:]
    yield 'zip_flipped', good.replace(bytes(16), bytes(15) + b'\x01', 1)
    yield (
        'zip_of_bzip2',
        archive(weights(tensor(storage())), [FOUR], compress=zipfile.ZIP_BZIP2),
    )
    yield (
        'zip_locked',
        good.replace(
            b'PK\x01\x02\x14\x03\x14\x00\x00', b'PK\x01\x02\x14\x03\x14\x00\x01'
        ),
    )
    yield (
        'zip_script',
        archive(weights(b'N'), [('a/constants.pkl', b'}.'), ('a/code/a.py', CODE)]),
    )
    yield (
        'zip_of_many_names',
        archive(None, [(f'a/data/{i}', b'') for i in range(20_000)]),
    )
    yield 'legacy_without_storage', legacy(weights(tensor(storage())), keys=['0'])
    yield (
        'legacy_storage_of_another_size',
        legacy(weights(tensor(storage())), struct.pack('<q', 2**60) + bytes(16), ['0']),
    )
    yield 'legacy_list_of_others', legacy(weights(tensor(storage())), b'', ['1'])
    yield (
        'legacy_views',
        legacy(
            weights(tensor(storage()[:-2] + b'(' + text('v') + b'K\xffK\xfftt' + b'Q')),
            struct.pack('<q', 4) + bytes(16),
            ['0'],
        ),
    )
    yield 'legacy_version', pickle.dumps(MAGIC_NUMBER, 2) + pickle.dumps(7, 2)
    yield 'legacy_cut', legacy(weights(tensor(storage())))[:60]
    for key, content in {
        'nothing': b'',
        'words': b'hello world',
        'page': b'<!DOCTYPE html><html>sign in</html>',
        'pointer': b'version https://git-lfs.github.com/spec/v1\noid sha256:a\n',
        'json': b'{"a": 1}',
        'broken_zip': b'PK\x03\x04broken',
        'gzip': b'\x1f\x8b' + bytes(100),
        'zeros': bytes(1000),
        'mark': b'\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f',
    }.items():
        yield key, content
    for key, header in {
        'safetensors_long_header': struct.pack('<Q', 2**62) + b'{"w":1}',
        'safetensors_no_json': struct.pack('<Q', 10) + b'{"w":::::}',
        'safetensors_outside': struct.pack('<Q', 62)
        + b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,2000000000]}}'[:62],
        'safetensors_cut': struct.pack('<Q', 100) + b'{"w":',
    }.items():
        yield f'{key}.safetensors', header


def write(folder: Path, key: str, content: bytes) -> Path:
    suffix = '' if key.endswith('.safetensors') else '.pth'
    path = folder / f'{key}{suffix}'.replace('/', '_')
    path.write_bytes(content)
    return path


CASES = {f'zip_{k}': (lambda b=b: archive(b, [FOUR])) for k, b in bodies()}
CASES |= {
    f'legacy_{k}': (lambda b=b: legacy(b, struct.pack('<q', 4) + bytes(16), ['0']))
    for k, b in bodies()
}
CASES |= {f'bare_{k}': (lambda b=b: b) for k, b in bodies()}
CASES |= {k: (lambda b=b: b) for k, b in files()}


def fingerprint() -> dict[str, object]:
    """What a file could change in torch: names and attributes that it can reach."""
    watched = [torch, torch.Tensor, torch.FloatStorage, torch.TypedStorage]
    watched += [torch._utils._rebuild_tensor_v2, torch.nn.Linear, torch.serialization]
    return {
        str(i): (getattr(v, '__name__', ''), sorted(vars(v)))
        for i, v in enumerate(watched)
    }
