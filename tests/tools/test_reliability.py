"""The checks of reliability try what they say, and find what is wrong."""

import ast
import itertools
import math
import multiprocessing
import random

import pytest
import torch

from mmssm.ops import dispatch
from tools.reliability import arguments, files, mutants, numerics, run, suites
from tools.reliability.check import ROOT, Check, Clock, Outcome

ONE = Check('Some', 'things', lambda clock, seed: Outcome(2, ['it fell'], 'a word'), 3)


@pytest.fixture
def wrong(monkeypatch):
    """Replaces what an op computes by default on a CPU."""

    def replace(op, change):
        known = dispatch.registered()[op]

        def run(*inputs):
            return change(known[-1].run(*inputs), *inputs)

        fake = [dispatch.Implementation(i.name, run) for i in known[:-1]]
        monkeypatch.setitem(dispatch._OPS, op, (*fake, known[-1]))

    return replace


@pytest.mark.parametrize('op', numerics.INPUTS)
def test_random_calls_are_right(op):
    outcome = numerics.examine(op, Clock(60), seed=1, most=8)
    assert outcome.tried >= 8
    assert outcome.failures == []


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (lambda y, *inputs: y * 1.001, 'result: error 1.0e-03'),
        (lambda y, *inputs: y / y.detach() * y.detach(), 'is not finite'),
        (lambda y, *inputs: y.double(), 'float64, naively'),
        (
            lambda y, *inputs: y + 1e-3 * torch.rand(()),
            'error|from one run to the next',
        ),
    ],
)
def test_faults_are_found(wrong, change, words):
    wrong('separable_attention', change)
    outcome = numerics.examine('separable_attention', Clock(60), seed=0, most=60)
    (failure,) = outcome.failures
    assert any(word in failure for word in words.split('|')), failure
    assert "Call(op='separable_attention'" in failure


CANCELLED = numerics.Call(
    op='separable_attention',
    backend='elementwise',
    size=(2, 8, 2, 6),
    dtype='float16',
    mode='plain',
    values=('normal',) * 5,
    layouts=('contiguous',) * 5,
    needs=(True,) * 5,
    seed=1538,
)


def test_a_sum_that_cancels_is_judged_by_its_terms(monkeypatch):
    assert numerics.hold(CANCELLED) == 'right'
    plain = numerics._agree

    def strict(*values):
        return plain(*values[:5])

    monkeypatch.setattr(numerics, '_agree', strict)
    with pytest.raises(AssertionError, match='gradient 3: error 9'):
        numerics.hold(CANCELLED)
    monkeypatch.undo()

    scale = torch.tensor(0.1, dtype=torch.float16)
    with pytest.raises(AssertionError, match='gradient 3: error 5.0e-01'):
        plain('gradient 3', scale + 0.5, scale, scale.double(), 0.0, 1.0)


def test_inputs_stay_where_an_op_is_defined():
    values = ('large',) * 5
    attention = ('separable_attention', 5, 2, math.inf)
    for op, count, number, most in (('ssm2d', 4, 1, 1.25), attention):
        given = {'values': values[:count], 'layouts': CANCELLED.layouts[:count]}
        call = CANCELLED._replace(op=op, dtype='float32', **given)
        found = numerics.prepare(call)[number].abs().max()
        assert 1 < found <= most
        assert (found > 9) == (most > 9)


def test_changed_inputs_are_found(wrong):
    def change(y, x, *others):
        x.data.sub_(1)
        return y

    wrong('channel_norm', change)
    outcome = numerics.examine('channel_norm', Clock(60), seed=0, most=60)
    assert 'input 0 was changed' in outcome.failures[0]


def test_time_ends_a_check():
    assert list(Clock(0).counts(9)) == [0]
    assert list(Clock(60).counts(3)) == [0, 1, 2]
    assert Clock(-1).left == 0


@pytest.mark.parametrize('check', files.checks(), ids=lambda check: check.title)
def test_damaged_files(check):
    outcome = check.run(Clock(60), 0, 30)
    assert (outcome.tried, outcome.failures) == (30, [])


def test_a_file_that_is_not_named_is_a_failure(monkeypatch):
    def load(path):
        raise (ValueError('something is wrong'), KeyError('x'))[load.calls % 2]

    load.calls = 1
    monkeypatch.setattr(files, 'load_file', load)
    outcome = files.checks()[0].run(Clock(60), 0, 1)
    assert outcome.failures == ["file 0: KeyError: 'x'"]
    load.calls = 2
    outcome = files.checks()[0].run(Clock(60), 0, 1)
    assert outcome.failures == ['file 0: not named in something is wrong']


def test_wrong_arguments_are_counted():
    outcome = arguments._mutants('wrong_arguments', 3, 3, Clock(60), 0)
    assert outcome == Outcome(3, [])


def test_a_part_of_the_suite_is_counted(tmp_path):
    (tmp_path / 'test_it.py').write_text(
        'import pytest\n'
        'def test_good(): pass\n'
        'def test_bad(): assert False\n'
        '@pytest.mark.skip\n'
        'def test_none(): pass\n'
    )
    outcome = suites._run([str(tmp_path / 'test_it.py')], Clock(60), 0)
    assert (outcome.tried, outcome.remark) == (2, '1 skipped')
    (failure,) = outcome.failures
    assert 'test_bad' in failure
    for check in suites.checks():
        for file in check.run.args[0]:
            assert (ROOT / file).is_file(), file


SOURCE = b'''"""1 < 2"""
def f(a: 1 + 1, b=True) -> 2 + 2:
    if a < b and not a:
        raise ValueError('\xc3\xa4 < 1')
    print(a, strict=True)
    return [a, b][0] if a is not b else a // 2
'''


def test_places_of_mistakes():
    found = {(m.old, m.new) for m in mutants.places('a.py', SOURCE)}
    assert found == {
        ('True', 'False'),
        ('<', '<='),
        ('and', 'or'),
        ('not a', 'bool(a)'),
        ('a < b and not a', 'not (a < b and (not a))'),
        ("raise ValueError('ä < 1')", 'pass'),
        ('print(a, strict=True)', 'pass'),
        ('0', '1'),
        ('is not', 'is'),
        ('a is not b', 'not (a is not b)'),
        ('//', '*'),
        ('2', '3'),
    }
    for mutant in mutants.places('a.py', SOURCE):
        assert ast.parse(mutant.applied(SOURCE))
        assert mutant.applied(SOURCE) != SOURCE


def test_each_file_has_tests_near_it():
    for file, nearest in {
        'ops/fusion/triton.py': 'ops/test_triton_fusion.py',
        'openmmlab/engine/stopping.py': 'openmmlab/engine/test_stopping.py',
        'openmmlab/looking/cams.py': 'openmmlab/test_look.py',
        'weights/released.py': 'weights/test_download.py',
        'zoo.py': 'test_zoo.py',
    }.items():
        found = mutants.tests_of(mutants.ROOT, f'mmssm/{file}')
        assert found[0] == f'tests/{nearest}'
        assert len(found) == len(set(found)) > 1
    # by what uses it through the package
    found = mutants.tests_of(mutants.ROOT, 'mmssm/layers/conv_downsample.py')
    assert 'tests/backbones/test_mila.py' in found[:4]


def test_mutants_are_killed_or_survive(tmp_path, monkeypatch):
    for name, text in {
        'mmssm/ops/it.py': 'def least(a, b):\n    return a if a < b else b\n',
        'mmssm/__init__.py': '',
        'mmssm/ops/__init__.py': '',
        'tests/ops/test_it.py': (
            'from mmssm.ops.it import least\n'
            'def test_it():\n    assert least(1, 2) == least(2, 1) == 1\n'
        ),
        'pyproject.toml': "[tool.pytest.ini_options]\npythonpath = ['.', 'tests']\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(mutants, 'ROOT', tmp_path)
    monkeypatch.setattr(mutants, 'COPIED', ('mmssm', 'tests'))
    monkeypatch.setattr(mutants, 'PRELOADED', ('pytest',))
    outcome = mutants.run(Clock(60), 0)
    # least(1, 1) is not asked for
    assert outcome == Outcome(2, ["mmssm/ops/it.py:2: '<' -> '<='"], '50 % killed')
    assert (tmp_path / 'mmssm/ops/it.py').read_text().count('<=') == 0


def test_a_test_that_hangs_is_red_and_one_that_is_slow_is_not(tmp_path, monkeypatch):
    (tmp_path / 'pyproject.toml').write_text('')
    test = tmp_path / 'test_it.py'
    test.write_text('import time\ndef test_it():\n    time.sleep(60)\n')
    context = multiprocessing.get_context('fork')
    monkeypatch.setattr(mutants, 'HANGS', 1)
    assert not mutants._is_alive(context, tmp_path, [str(test)])
    monkeypatch.setattr(mutants, 'HANGS', 100)
    monkeypatch.setattr(mutants, 'SECONDS', 1.0)
    assert mutants._is_alive(context, tmp_path, [str(test), str(test)])


def test_mistakes_are_drawn_from_every_folder():
    found = itertools.islice(mutants.drawn(mutants.ROOT, 0), 150)
    folders = {mutant.file.split('/')[1] for mutant in found}
    assert folders >= {path.parent.name for path in ROOT.glob('mmssm/*/__init__.py')}


def test_the_command_prints_and_keeps_a_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(files, 'checks', lambda: [ONE])
    page = tmp_path / 'page.md'
    page.write_text('<!-- benchmark it -->\n<!-- end of benchmark -->\n')
    options = ['--only', 'files', '--minutes', '1', '--out', str(tmp_path / 'out')]
    assert run.main([*options, '--into', str(page), 'it']) == 1
    row = '| things | 2 | 3 | 1 | 0 | a word |'
    assert row in page.read_text()
    assert row in (tmp_path / 'out/reliability.md').read_text()
    assert 'FAILED it fell' in capsys.readouterr().out
    monkeypatch.setattr(files, 'checks', lambda: [])
    assert run.main(options) == 0


def test_time_is_parted(monkeypatch):
    names = [files, numerics, arguments]
    for module, weights in zip(names, ([1, 3], [1], [1]), strict=True):
        monkeypatch.setattr(
            module, 'checks', lambda w=weights: [ONE._replace(weight=x) for x in w]
        )
    found = [clock.left for _, clock in run.parted(['files', 'numerics'], 70)]
    # the first leaves its 60 seconds to the others
    assert found == pytest.approx([60, 17.5, 70], abs=0.5)
    with pytest.raises(SystemExit):
        run.main(['--minutes', '0'])


def test_damage_is_drawn_from_a_seed():
    good = bytes(range(200))
    first, second = (files.damaged(good, random.Random(3)) for _ in range(2))
    assert first == second != good
