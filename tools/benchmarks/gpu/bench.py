"""What the sections of a run share."""

from pathlib import Path
from typing import NamedTuple

import torch

from tools.benchmarks.gpu.clock import Clock
from tools.benchmarks.gpu.ledger import Ledger
from tools.benchmarks.gpu.scale import Scale


class Bench(NamedTuple):
    """device, sizes, and where rows and files go."""

    device: str
    scale: Scale
    ledger: Ledger
    out: Path
    clock: Clock
    backend: str | None = None

    @property
    def on_gpu(self) -> bool:
        """Whether there are events, kernels of its own, and memory to be counted."""
        return torch.device(self.device).type == 'cuda'

    @property
    def bandwidth(self) -> float | None:
        """Bytes per second of a copy, as this run measured it."""
        for row in self.ledger.of('facts'):
            if 'copy_bytes_per_second' in row:
                return row['copy_bytes_per_second']
        return None

    def wrong(self, *ops: str) -> dict[str, str]:
        """A figure for rows that depend on ops whose parity is red."""
        rows = self.ledger.of('parity')
        red = {row['op'] for row in rows if row.get('parity') == 'RED'}
        return {'flag': 'WRONG'} if red & set(ops) else {}
