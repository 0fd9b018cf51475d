"""Files of weights: read without running what they hold, written whole.

A checkpoint file is a pickle, and a pickle can run code.  `load_file` never lets it:
tensors and plain containers are read, and every other object in the file (a released
checkpoint holds its training configuration, for instance) becomes an empty stand-in.
"""

import io
import os
import pickle
import re
import tempfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn


def load_file(path: str | os.PathLike) -> dict[str, object]:
    """Read a checkpoint on CPU without running any code that it may hold.

    path: a file, or a URL, which is downloaded once into torch.hub's folder.
    Raises FileNotFoundError, and ValueError for a file that is not a checkpoint or is
    not complete.
    """
    local = _download(str(path)) if re.match(r'https?://', str(path)) else Path(path)
    if not local.is_file():
        raise FileNotFoundError(
            f'no checkpoint at {str(path)!r}; download it there, or give the path of '
            'the file (init_cfg=None trains from scratch)'
        )
    try:
        try:
            content = torch.load(local, map_location='cpu', weights_only=True)
        except pickle.UnpicklingError:
            content = torch.load(
                local, map_location='cpu', weights_only=False, pickle_module=_INERT
            )
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f'{str(path)!r} is not a complete checkpoint ({reason}); its size is '
            f'{local.stat().st_size} bytes: compare with the source, download it again'
        ) from error
    if not isinstance(content, Mapping):
        raise ValueError(
            f'{str(path)!r} holds a {type(content).__name__}; expected a checkpoint '
            'or a state dict'
        )
    return dict(content)


def save_file(content: Mapping[str, object], path: str | os.PathLike) -> None:
    """torch.save to a temporary name beside `path`, then moved: whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.')
    try:
        with os.fdopen(handle, 'wb') as file:
            torch.save(content, file)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


class _Inert(dict):
    """Stands for any object of a class that is not on the list; does nothing."""

    __hash__ = object.__hash__

    def __init__(self, *ignored: object) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None: ...

    def append(self, item: object) -> None: ...

    def extend(self, items: object) -> None: ...


class _InertUnpickler(pickle.Unpickler):
    """Builds tensors and plain containers; any other class becomes `_Inert`."""

    allowed = {
        ('collections', 'OrderedDict'): OrderedDict,
        ('torch', 'Size'): torch.Size,
        ('torch', 'device'): torch.device,
        ('torch._utils', '_rebuild_tensor'): torch._utils._rebuild_tensor,
        ('torch._utils', '_rebuild_tensor_v2'): torch._utils._rebuild_tensor_v2,
        ('torch._utils', '_rebuild_parameter'): torch._utils._rebuild_parameter,
        ('torch.nn.parameter', 'Parameter'): nn.Parameter,
    }

    def find_class(self, module: str, name: str) -> object:
        if (module, name) in self.allowed:
            return self.allowed[module, name]
        if module == 'torch':
            value = getattr(torch, name, None)
            storage = isinstance(value, type) and name.endswith('Storage')
            if storage or isinstance(value, torch.dtype):
                return value
        return _Inert


def _inert_load(file: io.BufferedIOBase, **options: object) -> object:
    return _InertUnpickler(file, **options).load()


_INERT = SimpleNamespace(
    __name__='mmssm.weights.files', Unpickler=_InertUnpickler, load=_inert_load
)


def _download(url: str) -> Path:
    folder = Path(torch.hub.get_dir()) / 'checkpoints'
    target = folder / url.rsplit('/', 1)[-1]
    if not target.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(target))
    return target
