"""Tensors as pickles describe them: each part checked, then made.

A storage is bytes with a dtype; a tensor is a window on one.  What cannot be read right
(a tensor without values, a NumPy array of objects) becomes a `Foreign` that says so.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mmssm.weights.pickles import CONTAINERS, DamagedFile, Foreign, Pending

MOST_REPEATED = 2**24  # elements of a window that is larger than its storage
DTYPES = {
    name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)
}
STORAGES = {
    **{
        f'{name}Storage': dtype
        for name, dtype in {
            'Double': torch.float64,
            'Float': torch.float32,
            'Half': torch.float16,
            'BFloat16': torch.bfloat16,
            'Long': torch.int64,
            'Int': torch.int32,
            'Short': torch.int16,
            'Char': torch.int8,
            'Byte': torch.uint8,
            'Bool': torch.bool,
            'ComplexDouble': torch.complex128,
            'ComplexFloat': torch.complex64,
            'QInt8': torch.qint8,
            'QUInt8': torch.quint8,
            'QInt32': torch.qint32,
            'Untyped': torch.uint8,
        }.items()
    }
}
SCHEMES = {
    name: value
    for name, value in vars(torch).items()
    if isinstance(value, torch.qscheme)
}
VALUES: dict[str, object] = {
    f'torch.{name}': value for name, value in (DTYPES | SCHEMES).items()
}
# kind and bytes of a NumPy type -> dtype
NUMPY = {
    'b1': torch.bool,
    'i1': torch.int8,
    'i2': torch.int16,
    'i4': torch.int32,
    'i8': torch.int64,
    'u1': torch.uint8,
    'u2': torch.uint16,
    'u4': torch.uint32,
    'u8': torch.uint64,
    'f2': torch.float16,
    'f4': torch.float32,
    'f8': torch.float64,
    'c8': torch.complex64,
    'c16': torch.complex128,
}
# quantised dtype -> that of its integers
INTEGERS = {
    torch.qint8: torch.int8,
    torch.quint8: torch.uint8,
    torch.qint32: torch.int32,
}


class Storage(NamedTuple):
    """content: uint8, in one dimension."""

    content: Tensor
    dtype: torch.dtype


def storage_dtype(kind: object) -> torch.dtype:
    """dtype of a storage from the name of its class in the file."""
    name = kind.name.rpartition('.')[2] if isinstance(kind, Foreign) else None
    if name not in STORAGES:
        raise DamagedFile(f'it has a storage of kind {kind!r:.80}')
    return STORAGES[name]


def as_tensor(content: bytes | bytearray, dtype: torch.dtype) -> Tensor:
    """The bytes as a tensor in one dimension; a bytearray keeps its memory."""
    if not len(content):
        return torch.empty(0, dtype=dtype)
    if isinstance(content, bytes):
        content = bytearray(content)
    return torch.frombuffer(content, dtype=dtype)


def swap_bytes(content: Tensor, dtype: torch.dtype) -> None:
    """The other byte order, in place; each half of a complex number for itself."""
    size = dtype.itemsize // (2 if dtype.is_complex else 1)
    if size > 1 and len(content):
        content.copy_(content.view(-1, size).flip(1).flatten())


def window(
    storage: object,
    offset: object,
    size: object,
    stride: object,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """A view of the storage, inside it."""
    if not isinstance(storage, Storage):
        raise DamagedFile('it has a tensor without a storage')
    dtype = dtype or storage.dtype
    size, stride = _integers(size), _integers(stride)
    (offset,) = _integers((offset,))
    if len(size) != len(stride) or len(size) > 64:
        raise DamagedFile('it has a tensor with as many sizes as no strides')
    count, held = math.prod(size), len(storage.content) // dtype.itemsize
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if offset > held or (count and last >= held):
        raise DamagedFile(f'it has a tensor {size} outside of its storage of {held}')
    if count > max(held, MOST_REPEATED):
        raise DamagedFile(f'it has a tensor {size} that repeats {held} values')
    plain = INTEGERS.get(dtype, dtype)
    return torch.empty(0, dtype=plain).set_(
        storage.content.untyped_storage(), offset, size, stride
    )


def _integers(values: object) -> tuple[int, ...]:
    if not isinstance(values, (tuple, list)) or not all(
        type(value) is int and 0 <= value < 2**48 for value in values
    ):
        raise DamagedFile(f'it has a tensor with {values!r:.60} for sizes')
    return tuple(values)


def _tensor(
    storage: object,
    offset: object,
    size: object,
    stride: object,
    requires_grad: object = None,
    hooks: object = None,
    metadata: object = None,
) -> Tensor:
    return _conjugated(window(storage, offset, size, stride), metadata)


def _tensor_of_dtype(
    storage: object,
    offset: object,
    size: object,
    stride: object,
    requires_grad: object,
    hooks: object,
    dtype: object,
    metadata: object = None,
) -> Tensor:
    if not isinstance(dtype, torch.dtype):
        raise DamagedFile('it has a tensor without a dtype')
    return _conjugated(window(storage, offset, size, stride, dtype), metadata)


def _conjugated(tensor: Tensor, metadata: object) -> Tensor:
    if isinstance(metadata, dict):
        if metadata.get('conj') is True:
            tensor = tensor.conj()
        if metadata.get('neg') is True:
            tensor = torch._neg_view(tensor)
    return tensor


def _parameter(data: object, *_: object) -> object:
    return data


def _from_type(function: object, kind: object, arguments: object, *_: object) -> object:
    name = function.name if isinstance(function, Foreign) else None
    if name not in MAKERS or not isinstance(arguments, tuple):
        return Foreign(getattr(kind, 'name', 'tensor'))
    return MAKERS[name](*arguments)


def _quantised(
    storage: object,
    offset: object,
    size: object,
    stride: object,
    scheme: object,
    *_: object,
) -> Tensor:
    integers = window(storage, offset, size, stride)
    kind, *rest = scheme
    if storage.dtype not in INTEGERS:
        raise DamagedFile(f'it has a quantised tensor of {storage.dtype}')
    if kind is torch.per_tensor_affine:
        scale, zero = rest
        if not isinstance(scale, float) or not isinstance(zero, int):
            raise DamagedFile('it has a quantised tensor without scale')
        return torch._make_per_tensor_quantized_tensor(integers, scale, zero)
    scales, zeros, axis = rest
    if (
        kind not in (torch.per_channel_affine, torch.per_channel_affine_float_qparams)
        or not (isinstance(scales, Tensor) and isinstance(zeros, Tensor))
        or type(axis) is not int
        or not 0 <= axis < integers.dim()
        or not scales.shape == zeros.shape == (integers.shape[axis],)
    ):
        raise DamagedFile('it has a quantised tensor whose scales do not fit')
    return torch._make_per_channel_quantized_tensor(integers, scales, zeros, axis)


def _layout(name: object) -> object:
    value = getattr(torch, str(name).removeprefix('torch.'), None)
    return value if isinstance(value, torch.layout) else Foreign('torch.layout')


def _sparse(layout: object, data: object) -> Tensor:
    *parts, size = data[:3] if layout is torch.sparse_coo else data
    if not all(isinstance(part, Tensor) for part in parts):
        raise DamagedFile('it has a sparse tensor without values')
    size = _integers(size)
    if layout is torch.sparse_coo:
        sparse = torch.sparse_coo_tensor(*parts, size, check_invariants=True)
        return sparse.coalesce() if len(data) > 3 and data[3] is True else sparse
    return torch.sparse_compressed_tensor(
        *parts, size, layout=layout, check_invariants=True
    )


def _without_values(*_: object) -> Foreign:
    return Foreign('a tensor of the meta device, which has no values')


def _size(values: object = ()) -> torch.Size:
    return torch.Size(_integers(values))


def _device(kind: object, index: object = None) -> object:
    if not isinstance(kind, str) or not (index is None or type(index) is int):
        raise DamagedFile('it has a device without a name')
    return torch.device(kind) if index is None else torch.device(kind, index)


class NumpyType(NamedTuple):
    """kind: letter and bytes, 'f4'.  big: the other byte order."""

    kind: str
    big: bool


def _numpy_type(kind: object, *_: object) -> Pending:
    return Pending(lambda state: NumpyType(str(kind).lstrip('<>=|'), state[1] == '>'))


def _numpy_type_of(kind: object) -> NumpyType:
    return kind if isinstance(kind, NumpyType) else NumpyType('?', False)


def _numpy_array(*_: object) -> Pending:
    return Pending(lambda state: _array(*state[1:5]))


def _array(shape: object, kind: object, fortran: object, content: object) -> object:
    kind = _numpy_type_of(kind)
    if isinstance(content, str):
        content = content.encode('latin-1')
    if kind.kind not in NUMPY or not isinstance(content, (bytes, bytearray)):
        return Foreign(f'a NumPy array of type {kind.kind!r:.20}')
    dtype, shape = NUMPY[kind.kind], _integers(shape)
    if len(content) != math.prod(shape) * dtype.itemsize:
        raise DamagedFile(f'it has a NumPy array {shape} of {len(content)} bytes')
    raw = as_tensor(bytes(content), torch.uint8)
    if kind.big:
        swap_bytes(raw, dtype)
    values = raw.view(dtype)
    if fortran is True:
        return values.view(shape[::-1]).permute(*range(len(shape))[::-1])
    return values.view(shape)


def _numpy_number(kind: object, content: object = b'') -> object:
    value = _array((), kind, False, content)
    return value.item() if isinstance(value, Tensor) else value


def _numpy_buffer(
    content: object, kind: object, shape: object, order: object = 'C'
) -> object:
    return _array(shape, kind, order == 'F', content)


MAKERS: dict[str, Callable[..., object]] = {
    **CONTAINERS,
    'torch.Size': _size,
    'torch.device': _device,
    'torch._utils._rebuild_tensor': _tensor,
    'torch._utils._rebuild_tensor_v2': _tensor,
    'torch._utils._rebuild_tensor_v3': _tensor_of_dtype,
    'torch._utils._rebuild_parameter': _parameter,
    'torch._utils._rebuild_parameter_with_state': _parameter,
    'torch._tensor._rebuild_from_type_v2': _from_type,
    'torch._utils._rebuild_qtensor': _quantised,
    'torch._utils._rebuild_sparse_tensor': _sparse,
    'torch._utils._rebuild_meta_tensor_no_storage': _without_values,
    'torch.serialization._get_layout': _layout,
    'numpy.dtype': _numpy_type,
}
for _core in ('numpy.core', 'numpy._core'):
    MAKERS |= {
        f'{_core}.multiarray._reconstruct': _numpy_array,
        f'{_core}.multiarray.scalar': _numpy_number,
        f'{_core}.numeric._frombuffer': _numpy_buffer,
    }
