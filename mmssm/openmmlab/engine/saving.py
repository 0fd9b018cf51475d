"""Saving that leaves a run with a checkpoint, whenever the process dies."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.fileio.io import backend_instances
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.runner import Runner

from mmssm import weights
from mmssm.registry import HOOKS


def write_whole(path: str | Path, data: bytes) -> None:
    """`mmssm.weights.write_whole`, the temporary file locked while it is written.

    See `remove_leftovers`.
    """

    def locked(file: BinaryIO) -> None:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(data)

    weights.write_whole(path, locked)


def remove_leftovers(folder: str | Path) -> None:
    """Remove the temporary files of writes that a killed process left in a folder.

    Those of a process that is alive, another run in the same folder, are locked.
    """
    for leftover in Path(folder).glob('.*.pth.*.tmp'):
        with suppress(FileNotFoundError, BlockingIOError), open(leftover, 'rb') as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            leftover.unlink()


class AtomicBackend(LocalBackend):
    """mmengine's local storage, except that a file appears at once and complete."""

    def __init__(self) -> None:
        self._waiting: list[str | Path] | None = None

    def put(self, obj: bytes, filepath: str | Path) -> None:
        write_whole(filepath, obj)
        if self._waiting and filepath in self._waiting:
            self._waiting.remove(filepath)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        write_whole(filepath, obj.encode(encoding))

    def remove(self, filepath: str | Path) -> None:
        if self._waiting is None:
            super().remove(filepath)
        else:
            self._waiting.append(filepath)

    @contextmanager
    def removing_last(self) -> Iterator[None]:
        """Put off `remove` to the end of the block; an exception keeps the files."""
        if self._waiting is not None:
            yield
            return
        self._waiting = []
        try:
            yield
            for filepath in self._waiting:
                super().remove(filepath)
        finally:
            self._waiting = None


def use_atomic_files() -> None:
    """Make `AtomicBackend` mmengine's storage for local paths in this process."""
    register_backend('local', AtomicBackend, force=True, prefixes='')
    backend_instances.clear()  # those made before


@HOOKS.register_module()
class CheckpointHook(MMEngineCheckpointHook):
    """mmengine's hook, but old checkpoints go after the new one is on disk.

    mmengine removes what max_keep_ckpts and save_best make superfluous first; a
    process that dies while it saves then leaves nothing to resume from.
    """

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        if isinstance(self.file_backend, AtomicBackend) and is_main_process():
            remove_leftovers(self.out_dir)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        if not isinstance(self.file_backend, AtomicBackend):
            super()._save_checkpoint_with_step(runner, step, meta)
            return
        with self.file_backend.removing_last():
            super()._save_checkpoint_with_step(runner, step, meta)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        if not isinstance(self.file_backend, AtomicBackend):
            super()._save_best_checkpoint(runner, metrics)
            return
        with self.file_backend.removing_last():
            super()._save_best_checkpoint(runner, metrics)
