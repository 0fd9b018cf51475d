"""The run on a GPU, on a CPU: rows outlive errors, and red ops mark their times."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tools.benchmarks import gpu_run
from tools.benchmarks.gpu import cases, child, kernels, pages, parity, warm
from tools.benchmarks.gpu.bench import Bench
from tools.benchmarks.gpu.clock import Clock
from tools.benchmarks.gpu.ledger import DIED, FAILED, OK, SKIPPED, Ledger, Task
from tools.benchmarks.gpu.scale import FULL, TINY

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench(tmp_path):
    """Of tiny sizes on the CPU."""
    ledger = Ledger(tmp_path / 'rows.jsonl')
    return Bench('cpu', TINY, ledger, tmp_path, Clock('cpu', 1))


def statuses(ledger: Ledger) -> dict[str, str]:
    return {row['name']: row['status'] for row in ledger.rows()}


def test_one_command_fills_the_folder(tmp_path):
    out = tmp_path / 'out'
    command = [sys.executable, str(ROOT / 'tools/benchmarks/gpu_run.py')]
    command += ['--out', str(out), '--minutes', '2', '--device', 'cpu', '--tiny']
    path = {'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    ran = subprocess.run(
        [*command, '--sections', 'a,e,f,g'],
        env={**os.environ, **path},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert len(ran.stdout) < 9000
    assert 'spatialmamba-t, 2 x 64 x 64: inference ' in ran.stdout
    rows = Ledger(out / 'rows.jsonl').rows()
    assert {row['status'] for row in rows} == {OK}
    assert {row['section'] for row in rows} == {
        'facts',
        'networks',
        'profile',
        'growth',
    }
    names = [file.name for file in out.iterdir()]
    assert len(names) <= 8
    assert all(set(n) <= set('abcdefghijklmnopqrstuvwxyz0123456789.-_') for n in names)


@pytest.mark.parametrize('dtype', parity.DTYPES)
@pytest.mark.parametrize('name', ['scan', 'fusion'])
def test_kernels_are_held_against_double(name, dtype):
    row = parity.check(name, cases.OPS[name], (1, 8, 5, 6), dtype, 'cpu')
    assert row['parity'] == 'equal', row
    assert 0 < row['result'] < parity.FLOORS[dtype]


def test_a_wrong_kernel_is_red_and_marks_its_times(bench):
    op = cases.OPS['scan']
    wrong = op._replace(exact=lambda *inputs: 1.01 * op.exact(*inputs))
    row = parity.check('scan', wrong, (1, 8, 5, 6), torch.float32, 'cpu')
    assert row['parity'] == 'RED'
    bench.ledger.add('parity', 'scan', OK, **row)
    assert bench.wrong('scan', 'observe') == {'flag': 'WRONG'}
    assert bench.wrong('observe') == {}
    bench.ledger.add(
        'kernels', '224: scan', OK, **kernels.timed(bench, 'scan', (1, 8, 3, 2))
    )
    eager = kernels.timed(bench, 'gated norm, eager', (1, 8, 3, 2))
    bench.ledger.add('kernels', '224: eager', OK, **eager)
    text = pages.summary(bench.ledger.rows())
    assert '1 checked, 1 RED' in text
    assert '224 scan WRONG: ' in text
    assert '224 eager: ' in text


def test_shares_are_of_the_copy(bench):
    bench.ledger.add('facts', 'copy', OK, copy_bytes_per_second=1e9)
    row = kernels.timed(bench, 'conv + SiLU, cuDNN NHWC', (1, 8, 4, 4))
    # x and y of 128 numbers of 2 bytes, 9 + 1 of 4 bytes for each of 8 channels
    assert row['forward, of copy'] * row['forward, ms'] == pytest.approx(8.32e-4)
    assert row['backward, of copy'] * row['backward, ms'] == pytest.approx(1.408e-3)


def test_an_error_becomes_a_row_and_the_next_one_runs(bench, monkeypatch):
    def fail() -> dict:
        raise RuntimeError('out of everything')

    def tasks(_: Bench) -> list[Task]:
        late = Task('s', 'late', dict, seconds=1e6)
        return [Task('s', 'bad', fail), late, Task('s', 'good', lambda: {'ms': 1.0})]

    monkeypatch.setitem(child.SECTIONS, 'a', (tasks, 1.0))
    child.go(bench, 'a', time.time() + 60, 60)
    assert statuses(bench.ledger) == {'bad': FAILED, 'late': SKIPPED, 'good': OK}
    report = (bench.out / 'report.md').read_text()
    assert 'out of everything' in report
    assert 'in fail' in report
    text = pages.summary(
        [
            dict(row, section='growth')
            for row in bench.ledger.rows()
            if row['name'] != 'good'
        ]
    )
    assert 'FAILED bad: RuntimeError: out of everything' in text
    assert 'skipped for time: 1 (late' in text


def test_a_section_over_its_share_lets_the_others_go_first(bench, monkeypatch):
    order = []

    def slow(name: str) -> Task:
        return Task('s', name, lambda: order.append(name) or time.sleep(0.02) or {})

    monkeypatch.setitem(child.SECTIONS, 'a', (lambda _: map(slow, 'pq'), 1e-4))
    monkeypatch.setitem(child.SECTIONS, 'b', (lambda _: map(slow, 'r'), 1.0))
    child.go(bench, 'ab', time.time() + 60, 60)
    assert order == ['p', 'r', 'q']


PROGRAM = """
import sys, time, json
from pathlib import Path
from tools.benchmarks.gpu.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]))
if ('s', 'first') in ledger.tried():
    ledger.add('s', 'second', 'ok')
else:
    ledger.add('s', 'first', 'started', limit=0.5)
    {end}
"""


@pytest.mark.parametrize(
    ('end', 'told'),
    [('sys.exit(3)', 'exit status 3'), ('time.sleep(60)', 'no answer within')],
)
def test_another_process_goes_on(end, told, tmp_path, monkeypatch):
    file = tmp_path / 'rows.jsonl'
    command = [sys.executable, '-c', PROGRAM.replace('{end}', end), str(file)]
    monkeypatch.setattr(gpu_run, 'child', lambda args, until: command)
    monkeypatch.setattr(gpu_run, 'LIMIT', 0.5)
    gpu_run.main(['--out', str(tmp_path), '--minutes', '1', '--device', 'cpu'])
    first, second = Ledger(file).rows()
    assert first['status'] == DIED
    assert told in first['error']
    assert second['status'] == OK


def test_a_used_folder_is_refused(tmp_path):
    (tmp_path / 'rows.jsonl').write_text('')
    with pytest.raises(SystemExit, match='empty folder'):
        gpu_run.main(['--out', str(tmp_path), '--device', 'cpu'])


def test_jobs_of_the_compilation_have_names_of_their_own():
    names = [name for name, _ in warm.jobs('cpu', FULL)]
    assert len(set(names)) == len(names)
    assert 'block, 128x64x56x56' in names
    assert 'block, 2x256x50x80' in names
