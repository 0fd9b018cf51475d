"""The cases of all groups, measured in turns."""

import argparse
import gc
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import nn

from tools.benchmarks.case import Case, Prepared, Setting
from tools.benchmarks.measure import (
    copying,
    in_fresh_process,
    peak_bytes,
    seconds,
    take_turns,
    use,
)
from tools.benchmarks.official import Official, Remote
from tools.benchmarks.report import Row

# Group -> module with its cases, and what it needs beside torch
GROUPS: dict[str, tuple[str, tuple[str, ...]]] = {
    'ops': ('ops', ()),
    'layers': ('layers', ()),
    'backbones': ('backbones', ()),
    'detectors': ('models', ('mmdet',)),
    'segmentors': ('models', ('mmdet', 'mmseg')),
}
WARM_UP = 2  # passes; a layer may keep something at the second


def registry(groups: Sequence[str] = tuple(GROUPS)) -> dict[str, Case]:
    """All cases of these groups by name; raises ValueError for a name given twice."""
    found: dict[str, Case] = {}
    for group in groups:
        module = import_module(f'tools.benchmarks.{GROUPS[group][0]}')
        for case in module.cases(group):
            if case.name in found:
                raise ValueError(f'there are two cases with the name {case.name!r}')
            found[case.name] = case
    return found


def missing(group: str) -> list[str]:
    """Packages that a group needs and that are not installed."""
    return [name for name in GROUPS[group][1] if find_spec(name) is None]


def measure(
    cases: Mapping[str, Case],
    officials: Sequence[Official],
    setting: Setting,
    args: argparse.Namespace,
) -> list[Row]:
    """A row for each case that takes the setting; without times where memory ends."""
    fit = {name: case for name, case in cases.items() if case.fits(setting)}
    ready = {name: prepare(case, setting) for name, case in fit.items()}
    timers = {
        name: partial(seconds, prepared.work, setting.device)
        for name, prepared in ready.items()
        if prepared
    }
    for name, prepared in ready.items():
        if prepared and prepared.traffic:
            work = copying(prepared.traffic, setting.device)
            timers[_copy_for(name)] = partial(seconds, work, setting.device)
    with ExitStack() as stack:
        counts = {name: _parameters(p and p.model) for name, p in ready.items()}
        for official in officials:
            remote = Remote(official, setting, args.threads, args.tf32)
            stack.enter_context(remote)
            timers[official.case] = remote.seconds
            counts[official.case] = remote.parameters
        taken = take_turns(timers, args.repeats, WARM_UP)
    size = 'x'.join(map(str, setting.size))
    return [
        Row(
            name,
            size,
            setting.batch,
            setting.mode,
            taken.get(name, []),
            parameters=count,
            macs=_macs(cases.get(name), setting.size),
            copy_seconds=taken.get(_copy_for(name)),
            peer=cases[name].peer if name in cases else None,
        )
        for name, count in counts.items()
    ]


def prepare(case: Case, setting: Setting) -> Prepared | None:
    """The case after a first pass, or None where that ran out of the GPU's memory."""
    try:
        prepared = case.prepare(setting)
        prepared.work()
    except torch.OutOfMemoryError:
        prepared = None
    if prepared is None:  # outside of the handler, which holds what is to be freed
        gc.collect()
        torch.cuda.empty_cache()
    return prepared


def _copy_for(name: str) -> str:
    return f'copy for {name}'


def _parameters(model: nn.Module | None) -> int | None:
    return None if model is None else sum(p.numel() for p in model.parameters())


def _macs(case: Case | None, size: tuple[int, int]) -> int | None:
    return None if case is None or case.macs is None else case.macs(size)


def with_peaks(
    rows: Sequence[Row],
    officials: Sequence[Official],
    setting: Setting,
    args: argparse.Namespace,
) -> list[Row]:
    """The rows with peak memory, each from a process of its own."""
    by_case = {official.case: official for official in officials}
    measured = []
    for row in rows:
        how = (setting, args.threads, args.tf32)
        if not row.seconds:
            peak = None
        elif row.case in by_case:
            with Remote(by_case[row.case], *how) as remote:
                peak = remote.peak_bytes()
        else:
            peak = in_fresh_process(peak_of, row.case, *how)
        measured.append(row._replace(peak=peak))
    return measured


def peak_of(name: str, setting: Setting, threads: int, tf32: bool) -> int:
    """Peak bytes of one pass of a case; to be asked in a fresh process."""
    use(threads, tf32)
    case = registry([name.split('/')[0]])[name]
    case.prepare(setting._replace(size=(64, 64), batch=2)).work()
    return peak_bytes(case.prepare(setting).work, setting.device)
