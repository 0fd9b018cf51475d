"""An implementation is chosen by name, or is the first that can run."""

import pytest

from mmssm.ops import dispatch
from mmssm.ops.dispatch import Implementation


@pytest.fixture
def op(monkeypatch):
    table = (
        Implementation('kernel', lambda: 'kernel', requires=lambda: 'no GPU here'),
        Implementation('square', lambda: 'square', why_not=needs_square),
        Implementation('plain', lambda: 'plain'),
    )
    monkeypatch.setitem(dispatch._OPS, 'op', table)
    return 'op'


def needs_square(height, width):
    return None if height == width else f'{height} is not {width}'


def test_none_takes_the_first_that_can_run(op):
    assert dispatch.choose(op, None, 3, 3)() == 'square'
    assert dispatch.choose(op, None, 3, 4)() == 'plain'


def test_a_name_is_obeyed(op):
    assert dispatch.choose(op, 'plain', 3, 3)() == 'plain'


def test_what_does_not_suit_the_inputs_is_taken_by_name_only(monkeypatch):
    table = (
        Implementation('slow', lambda: 'slow', suits=lambda *sizes: min(sizes) > 9),
        Implementation('plain', lambda: 'plain', why_not=needs_square),
    )
    monkeypatch.setitem(dispatch._OPS, 'op', table)
    assert dispatch.choose('op', None, 3, 3)() == 'plain'
    assert dispatch.choose('op', None, 10, 10)() == 'slow'
    assert dispatch.choose('op', 'slow', 3, 3)() == 'slow'
    with pytest.raises(RuntimeError, match='slow: only by name on these inputs; plain'):
        dispatch.choose('op', None, 3, 4)


def test_a_name_that_cannot_run_is_refused_with_the_reason(op):
    with pytest.raises(RuntimeError, match='kernel: no GPU here'):
        dispatch.choose(op, 'kernel', 3, 3)
    with pytest.raises(RuntimeError, match='square: 3 is not 4'):
        dispatch.choose(op, 'square', 3, 4)


def test_every_reason_is_given_when_nothing_can_run(monkeypatch):
    table = [Implementation(n, print, lambda n=n: f'{n}!') for n in ('a', 'b')]
    monkeypatch.setitem(dispatch._OPS, 'op', table)
    with pytest.raises(RuntimeError, match='a: a!; b: b!'):
        dispatch.choose('op', None)


def test_unknown_name_lists_the_known(op):
    with pytest.raises(ValueError, match="'kernel', 'square', 'plain'"):
        dispatch.choose(op, 'cuda')


def test_every_op_can_run_somewhere_without_a_gpu():
    for name, table in dispatch.registered().items():
        assert any(i.requires() is None for i in table), name
        assert 'naive' in [i.name for i in table], name
