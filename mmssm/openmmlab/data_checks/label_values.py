"""Values of label maps against the classes of a config."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from mmssm.openmmlab.data_checks.report import Report, counts, some

REDUCED = 255  # what reduce_zero_label writes for 0
MUCH = 0.5  # of the pixels, from which on ignored ones are worth a word


class Values:
    """How often each value occurs in the maps that were opened.

    reduce: reduce_zero_label.  ignored: the label that the heads do not count.
    pixels, files: value -> how many of them hold it; where: value -> the first file.
    """

    def __init__(self, reduce: bool, ignored: int) -> None:
        self.reduce = reduce
        self.ignored = ignored
        self.pixels: Counter[int] = Counter()
        self.files: Counter[int] = Counter()
        self.where: dict[int, str] = {}

    def add(self, labels: np.ndarray, path: str) -> None:
        """Count the values of a map: (H, W)."""
        values, numbers = np.unique(labels.astype(np.int64), return_counts=True)
        self.pixels.update(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
        self.files.update(values.tolist())
        for value in values.tolist():
            self.where.setdefault(value, path)

    def share(self, *chosen: int) -> float:
        """Part of all pixels that have one of the values."""
        return sum(self.pixels[value] for value in chosen) / sum(self.pixels.values())


def check_values(report: Report, values: Values, classes: Sequence[str]) -> None:
    """Report values without class, classes without value, and what is ignored."""
    first = 1 if values.reduce else 0
    expected = range(first, first + len(classes))
    unlabelled = {values.ignored, 0} if values.reduce else {values.ignored}
    unlabelled -= set(expected)
    strange = sorted(set(values.pixels) - set(expected) - unlabelled)
    known = [value for value in expected if value in values.pixels]
    report.fact(f'values {ranges(sorted(values.pixels))}; expected {_span(expected)}')
    if strange:
        _explain_strange(report, values, strange, expected)
    elif _is_binary(values, expected, known):
        report.error(
            f'label maps hold {expected[0]} and {values.ignored} only, as '
            f'binary masks do: {100 * values.share(values.ignored):.1f} % of the '
            f'pixels have the value {values.ignored}, which is ignored, and '
            f'{some(classes[1:])} is never learned: {values.where[values.ignored]}',
            f'write {expected[1]} in the place of {values.ignored} in every label map',
        )
    else:
        _suspect_ignored(report, values, expected, classes, unlabelled)
    if values.reduce and values.ignored != REDUCED and 0 in values.pixels:
        report.error(
            f'reduce_zero_label=True makes {REDUCED} of the value 0, but the heads '
            f'ignore {values.ignored}: {values.where[0]}',
            f'ignore_index={REDUCED} in the heads',
        )
    share = [round(100 * values.share(value), 1) for value in known]
    report.fact('% of pixels: ' + counts([classes[v - first] for v in known], share))
    absent = [classes[v - first] for v in expected if v not in values.pixels]
    if absent and not strange:
        report.warning(
            f'classes that none of the opened maps has: {some(absent)}',
            'open all of them (--all); if it stays so, drop the classes or look for an '
            'offset in the values',
        )
    if not known:
        report.error('no opened label map has a labelled pixel', 'see the values above')


def _is_binary(values: Values, expected: range, known: Sequence[int]) -> bool:
    """The first class and the ignored value: what is white is meant to be another."""
    return (
        len(expected) > 1
        and list(known) == [expected[0]]
        and values.pixels[values.ignored] > 0
    )


def _suspect_ignored(
    report: Report,
    values: Values,
    expected: range,
    classes: Sequence[str],
    unlabelled: set[int],
) -> None:
    maps = sum(values.files.values())
    if (
        values.reduce
        and expected[-1] not in values.pixels
        and values.files[0] > maps / 10
    ):
        report.warning(
            f'reduce_zero_label=True ignores value 0, which is in {values.files[0]} '
            f'maps, and value {expected[-1]} ({classes[-1]!r}) never occurs',
            'if 0 is a class, reduce_zero_label=False',
        )
    elif MUCH < values.share(*unlabelled) < 1:
        report.warning(
            f'{100 * values.share(*unlabelled):.1f} % of the pixels are ignored (value '
            f'{some(sorted(unlabelled & set(values.pixels)))})',
            'if they belong to a class, give them its number',
        )


def _explain_strange(
    report: Report, values: Values, strange: Sequence[int], expected: range
) -> None:
    most = max(values.files[value] for value in strange)
    what = (
        f'values outside of the {len(expected)} classes: {ranges(strange)}, in up to '
        f'{most} maps such as {values.where[strange[0]]}; training stops there or, on '
        'a GPU, dies with a device-side assert'
    )
    if strange == [255]:
        share = 100 * values.share(255)
        fix = (
            f'255 ({share:.1f} % of the pixels) is ignored with ignore_index=255 in '
            'dataset, heads and metric; if it is a class, write its number'
        )
    elif not values.reduce and strange == [len(expected)] and not values.pixels[0]:
        fix = 'the values begin at 1: reduce_zero_label=True'
    elif not values.reduce and strange == [len(expected)]:
        fix = (
            f'there are {len(expected) + 1} values: if 0 means unlabelled, '
            'reduce_zero_label=True; if it is a class such as background, name it '
            'first in metainfo.classes and raise num_classes'
        )
    else:
        fix = (
            'name every class in metainfo.classes, or convert the maps: 0, 1, 2, … in '
            'the order of the classes, 255 for what is not to count'
        )
    report.error(what, fix)


def ranges(values: Sequence[int]) -> str:
    """'0-3, 7, 255' for sorted values."""
    groups: list[list[int]] = []
    for value in values:
        if groups and value == groups[-1][-1] + 1:
            groups[-1].append(value)
        else:
            groups.append([value])
    return ', '.join(str(g[0]) if len(g) == 1 else f'{g[0]}-{g[-1]}' for g in groups)


def _span(expected: range) -> str:
    return f'{expected[0]}-{expected[-1]}'
