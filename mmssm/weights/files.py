"""Files of weights: read without running what they hold, written whole.

A `.safetensors` file holds tensors and text, nothing else: the form to publish and to
ask for.  A `.pth` file is a pickle, and a pickle can run code.  `load_file` never lets
it: it decodes the file as data (`mmssm.weights.pickles`); tensors and plain containers
are read, and every other object (a released checkpoint holds its training
configuration, for instance) becomes an inert stand-in.
"""

import io
import os
import re
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor
from torch.serialization import MAGIC_NUMBER

from mmssm.weights.pickles import DamagedFile, Decoder
from mmssm.weights.released import RELEASED
from mmssm.weights.tensors import (
    MAKERS,
    VALUES,
    Storage,
    as_tensor,
    storage_dtype,
    swap_bytes,
)

MOST_PICKLED = 2**28  # bytes of the pickle inside a zip archive
SPARE = 2**26  # bytes that an archive may unpack to beyond four times its size
SAFETENSORS = '.safetensors'
# What parsers make of damaged bytes.
DAMAGED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


def load_file(path: str | os.PathLike) -> dict[str, object]:
    """Read weights on the CPU without running any code that the file may hold.

    path: a `.safetensors` file (best, nothing in it could run), or a checkpoint in
    either form of torch.save; or what `mmssm.weights.fetch` takes: a URL or the name of
    released weights, downloaded once.
    Objects that are no tensors, numbers, texts or containers are
    `mmssm.weights.pickles.Foreign`.  NumPy arrays are tensors.
    Raises FileNotFoundError, and ValueError for a file that is not a checkpoint or is
    not complete, with the reason, its size and what to do.
    """
    local = Path(path)
    if '://' in str(path) or (str(path) in RELEASED and not local.is_file()):
        from mmssm.weights.download import fetch  # which writes by this module

        local = fetch(path)
    if not local.is_file():
        raise FileNotFoundError(
            f'no checkpoint at {str(path)!r}; download it there, or give the path of '
            'the file (init_cfg=None trains from scratch)'
        )
    with open(local, 'rb') as file:
        size = os.fstat(file.fileno()).st_size
        try:
            content = _read(file, size, local)
        except DAMAGED as error:
            reason = str(error) if isinstance(error, DamagedFile) else _raw(error)
            # names in it come from the file
            reason = ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in reason)
            raise ValueError(
                f'{str(path)!r} is not a complete checkpoint ({reason}); its size is '
                f'{size} bytes: compare with the source, download it again'
            ) from error
    if not isinstance(content, Mapping):
        raise ValueError(
            f'{str(path)!r} ({size} bytes) holds a {type(content).__name__}; expected '
            'a checkpoint or a state dict: look for the file that holds the weights'
        )
    return dict(content)


def save_file(content: Mapping[str, object], path: str | os.PathLike) -> None:
    """Write weights, whole or not at all; the form follows the suffix.

    path: `.safetensors` (best: readers need no trust) takes a flat dict of tensors;
    any other suffix is torch.save's form and takes a checkpoint.
    Raises ValueError for what a `.safetensors` file cannot hold.
    """
    if Path(path).suffix == SAFETENSORS:
        write_whole(path, _as_safetensors(content, path))
    else:
        write_whole(path, lambda file: torch.save(dict(content), file))


def write_whole(
    path: str | os.PathLike, data: bytes | Callable[[BinaryIO], object]
) -> None:
    """Write a file that is there whole or not at all, whenever the process dies.

    data: the content, or a function that writes it.  It goes to a temporary name of
    its own beside `path`, onto the disk, then in one step to `path`.  A link stays a
    link, and permissions are those of any new file, or of the file that is replaced.
    """
    path = Path(path).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        mode = path.stat().st_mode & 0o777
    except FileNotFoundError:
        mode = None
    handle, name = tempfile.mkstemp('.tmp', f'.{path.name[:100]}.', path.parent)
    try:
        with os.fdopen(handle, 'wb') as file:
            data(file) if callable(data) else file.write(data)
            file.flush()
            os.fchmod(file.fileno(), 0o666 & ~_umask() if mode is None else mode)
            os.fsync(file.fileno())
            os.replace(name, path)  # while a lock that `data` took still holds
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _umask() -> int:
    """The process's umask; asking by os.umask would change it for other threads."""
    status = Path('/proc/self/status')
    found = re.search(r'Umask:\s*(\d+)', status.read_text() if status.exists() else '')
    return int(found[1], 8) if found else 0o022


def _read(file: BinaryIO, size: int, path: Path) -> object:
    start = file.read(512)
    file.seek(0)
    if path.suffix == SAFETENSORS or _looks_like_safetensors(start, size):
        return _read_safetensors(path)
    if start.startswith(b'PK\x03\x04') or zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            return _Archive(archive, size).load()
    file.seek(0)
    _refuse_others(start)
    return _Stream(file, size).load()


def _refuse_others(start: bytes) -> None:
    """Name what is no checkpoint by its first bytes."""
    if not start:
        raise DamagedFile('it is empty')
    if start[257:262] == b'ustar':
        raise DamagedFile(
            'it is a tar archive, unpack it; if it is the form in which PyTorch saved '
            'before 0.1.10, load and save it again with a PyTorch that you trust it to'
        )
    text = start.lstrip()[:64].lower()
    if text.startswith((b'<!doctype', b'<html', b'<?xml')):
        raise DamagedFile('it is a web page, not the file behind it')
    if start.startswith(b'version https://git-lfs'):
        raise DamagedFile('it is a Git LFS pointer: run git lfs pull')
    if start.startswith(b'\x1f\x8b'):
        raise DamagedFile('it is compressed: run gunzip')
    if all(byte in b'\t\n\r' or 32 <= byte < 127 for byte in start):
        raise DamagedFile(f'it is text: {start[:40].decode("ascii")!r}')


def _raw(error: BaseException) -> str:
    """A parser's words on one short line."""
    words = str(error).splitlines()
    return (
        f'{type(error).__name__}: {words[0][:120]}' if words else type(error).__name__
    )


class _Archive:
    """torch.save's zip form: NAME/data.pkl, a record NAME/data/KEY per storage."""

    def __init__(self, archive: zipfile.ZipFile, size: int) -> None:
        self.archive = archive
        self.left = 4 * size + SPARE
        self.storages: dict[str, Storage] = {}
        names = archive.namelist()
        found = [
            n for n in names if n.split('/')[-1] == 'data.pkl' and n.count('/') < 2
        ]
        if len(found) != 1:
            raise DamagedFile(f'a zip archive with {len(found)} data.pkl, expected one')
        self.root = found[0].removesuffix('data.pkl')
        if f'{self.root}constants.pkl' in names:
            raise DamagedFile(
                'it is a TorchScript program: save the state_dict() of its module'
            )
        order = f'{self.root}byteorder'
        order = self.record(order, most=16) if order in names else b'little'
        if order not in (b'little', b'big'):
            raise DamagedFile(f'its byte order is {bytes(order)!r}')
        self.big = order == b'big'

    def load(self) -> object:
        pickled = io.BytesIO(self.record(f'{self.root}data.pkl', most=MOST_PICKLED))
        return Decoder(pickled, VALUES, MAKERS, self.storage).load()

    def record(self, name: str, most: int) -> bytearray:
        """Content of a record: of the size that the archive states, its sum checked."""
        info = self.archive.getinfo(name)
        if info.file_size > min(most, self.left):
            raise DamagedFile(f'{name} would unpack to {info.file_size} bytes')
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DamagedFile(f'{name} is compressed in an unusual way')
        stated = os.fstat(self.archive.fp.fileno()).st_size
        if info.compress_type == zipfile.ZIP_STORED and info.file_size > stated:
            raise DamagedFile(f'{name} is cut off')
        self.left -= info.file_size
        content = bytearray(info.file_size)
        with self.archive.open(info) as record, memoryview(content) as view:
            done = 0
            while count := record.readinto(view[done : done + 2**24]):
                done += count
            if done != len(content) or record.read(1):
                raise DamagedFile(f'{name} has {done} of {len(content)} bytes')
        return content

    def storage(self, key: tuple) -> Storage:
        _, kind, name, _, count, *_ = key
        dtype, name = storage_dtype(kind), _text(name)
        if name not in self.storages:
            wanted = _count(count) * dtype.itemsize
            content = self.record(f'{self.root}data/{name}', most=max(wanted, 0))
            if len(content) != wanted:
                raise DamagedFile(f'data/{name} has {len(content)} of {wanted} bytes')
            raw = as_tensor(content, torch.uint8)
            if self.big:
                swap_bytes(raw, dtype)
            self.storages[name] = Storage(raw, dtype)
        return self.storages[name]._replace(dtype=dtype)


class _Stream:
    """torch.save's form before 1.6: pickles, then the storages; or a bare pickle."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file = file
        self.size = self.left = size
        self.content: dict[object, bytearray] = {}
        self.storages: dict[object, Storage] = {}

    def load(self) -> object:
        reader = _Bounded(self.file, self.size)
        decoder = Decoder(reader, VALUES, MAKERS, self.storage)
        first = decoder.load()
        if first != MAGIC_NUMBER or not isinstance(first, int):
            if self.storages or not isinstance(first, Mapping):
                raise DamagedFile('it does not begin as torch.save lets a file begin')
            return first
        if (version := decoder.load()) != 1001:
            raise DamagedFile(f'its version is {version!r:.40}, expected 1001')
        system = decoder.load()
        if not isinstance(system, dict) or system.get('little_endian') is False:
            raise DamagedFile('it comes from a machine of the other byte order')
        start = self.file.tell()
        Decoder(reader, VALUES, {}, self.storage).load()  # which storages there are
        keys = decoder.load()
        if not isinstance(keys, list) or {*map(_text, keys)} != self.content.keys():
            raise DamagedFile('its list of storages does not fit its tensors')
        for key in map(_text, keys):
            self.fill(key)
        self.file.seek(start)
        return decoder.load()

    def fill(self, key: str) -> None:
        content, storage = self.content[key], self.storages[key]
        (count,) = struct.unpack('<q', self.file.read(8))
        if count * storage.dtype.itemsize != len(content):
            raise DamagedFile(f'storage {key} has another length than its tensors say')
        with memoryview(content) as view:
            if self.file.readinto(view) != len(content):
                raise DamagedFile('it ends early')

    def storage(self, key: tuple) -> Storage:
        _, kind, name, _, count, *view = key
        dtype, name = storage_dtype(kind), _text(name)
        if name not in self.storages:
            wanted = _count(count) * dtype.itemsize
            if wanted > self.left:
                raise DamagedFile(f'storage {name} of {wanted} bytes is cut off')
            self.left -= wanted
            self.content[name] = bytearray(wanted)
            self.storages[name] = Storage(
                as_tensor(self.content[name], torch.uint8), dtype
            )
        whole = self.storages[name]._replace(dtype=dtype)
        if view and view[0] is not None:
            _, offset, length = view[0]
            first = _count(offset) * dtype.itemsize
            part = whole.content[first : first + _count(length) * dtype.itemsize]
            return Storage(part, dtype)
        return whole


class _Bounded:
    """Reads no more than there is, whatever length a file states.

    It has no tell(), which `pickletools` would ask for at every opcode.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.readline = file.readline
        self.file = file
        self.size = size

    def read(self, count: int) -> bytes:
        return self.file.read(min(count, self.size))


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**48:
        raise DamagedFile(f'it has a storage with {value!r:.40} for a size')
    return value


def _text(key: object) -> str:
    if isinstance(key, bytes):
        key = key.decode('ascii')
    if not isinstance(key, str):
        raise DamagedFile(f'it has a storage named {key!r:.40}')
    return key


def _looks_like_safetensors(start: bytes, size: int) -> bool:
    header = int.from_bytes(start[:8], 'little')
    return start[8:10] == b'{"' and 2 <= header <= size - 8


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    torch_part, error = _safetensors()
    try:
        return torch_part.load_file(path, device='cpu')
    except (error, OSError) as reason:
        raise DamagedFile(f'safetensors: {reason}'[:200]) from reason


def _as_safetensors(content: Mapping[str, object], path: str | os.PathLike) -> bytes:
    torch_part, _ = _safetensors()
    others = [name for name, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise ValueError(
            f'{str(path)!r}: a {SAFETENSORS} file holds tensors alone, not '
            f'{others[:12]}; save the state dict, or a checkpoint as .pth'
        )
    dense = {
        name: value.detach().to_dense().contiguous().clone()
        if value.layout is torch.strided and not value.is_quantized
        else value
        for name, value in content.items()
    }
    try:
        return torch_part.save(dense, metadata={'format': 'pt'})
    except (ValueError, KeyError, RuntimeError) as error:
        raise ValueError(f'{str(path)!r}: {_raw(error)}; save it as .pth') from error


def _safetensors() -> tuple:
    try:
        import safetensors
        import safetensors.torch
    except ImportError as error:
        raise ImportError(
            f'{SAFETENSORS} files need the package safetensors: pip install safetensors'
        ) from error
    return safetensors.torch, safetensors.SafetensorError
