"""The part of the check of data that takes seconds, for the start of a training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from mmssm.openmmlab.data_checks import check
from mmssm.openmmlab.data_checks.leaves import first_lines
from mmssm.openmmlab.data_checks.one_dataset import QUICK
from mmssm.openmmlab.data_checks.report import ERROR, Finding, Report
from mmssm.openmmlab.errors import UserError

EMPTY = 'need at least one array to concatenate'
SHOWN = 10  # findings that a message lists


def check_before_training(cfg: Mapping, loaders: Sequence[str]) -> list[str]:
    """Lines for the log about the data of a config, on every rank.

    In a group of processes the first one looks, and all of them hear of it.
    Raises UserError that lists the errors.
    """
    from mmengine.dist import broadcast_object_list, get_rank

    told = [None, []]
    if get_rank() == 0:
        told = list(_look(cfg, loaders))
    broadcast_object_list(told)
    error, notes = told
    if error:
        raise UserError(error)
    return notes


@contextlib.contextmanager
def explaining_empty(cfg: Mapping, loaders: Sequence[str]) -> Iterator[None]:
    """Turn NumPy's message about a dataset without pictures into one that says why.

    Raises UserError in the place of that ValueError.
    """
    try:
        yield
    except ValueError as error:
        if EMPTY not in str(error):
            raise
        text, _ = _look(cfg, loaders)
        text = text or 'a dataset is empty; mmssm-check-data CONFIG says why'
        raise UserError(text) from error


def _look(cfg: Mapping, loaders: Sequence[str]) -> tuple[str | None, list[str]]:
    """(text of the error or None, lines for the log)."""
    from mmengine.registry import DefaultScope

    report = Report(silent=True)
    scope = cfg.get('default_scope') or 'mmengine'
    try:
        with DefaultScope.overwrite_default_scope(scope):
            check(cfg, QUICK, report, loaders)
    except UserError as error:
        return str(error), []
    # A check that trips over itself must not keep anybody from training.
    except Exception as error:  # noqa: BLE001
        text = f'the data was not checked: {type(error).__name__}: {first_lines(error)}'
        return None, [text]
    errors = [finding for finding in report.findings if finding.kind == ERROR]
    if errors:
        return (
            f'the data has {len(errors)} error{"s" if len(errors) > 1 else ""}:\n'
            f'{_listed(errors)}\nmmssm-check-data CONFIG tells more; mmssm-train '
            '--skip-checks goes on all the same',
            [],
        )
    return None, [_line(finding) for finding in report.findings[:SHOWN]]


def _listed(findings: Sequence[Finding]) -> str:
    lines, place = [], ''
    for finding in findings[:SHOWN]:
        if finding.place != place:
            place = finding.place
            lines.append(f'  {place}')
        lines.append(f'  {finding}')
    if len(findings) > SHOWN:
        lines.append(f'  … {len(findings) - SHOWN} more')
    return '\n'.join(lines)


def _line(finding: Finding) -> str:
    return f'data: {finding.place}: {finding.what}. Fix: {finding.fix}'
