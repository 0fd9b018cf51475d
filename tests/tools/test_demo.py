"""The demo: what it starts, what it keeps, and how it stops."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tools.demo import __main__ as demo
from tools.demo import results

ROOT = Path(__file__).parents[2]
QUICK = ['--iterations', '2', '--images', '8', '3']


@pytest.fixture
def lock(tmp_path):
    descriptor = demo.take_lock(tmp_path / 'lock')
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def step(tmp_path, lock):
    """Starts a step that runs Python code."""

    def start(code, name='step'):
        return demo.Step(name, ['-c', code], tmp_path / f'{name}.log', lock)

    return start


def run_demo(folder, *options):
    command = [sys.executable, '-m', 'tools.demo', *QUICK, *options]
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_everything_once_then_nothing_again(tmp_path):
    status, out, err = run_demo(tmp_path)
    assert status == 0, out + err
    for words in ('train Mask R-CNN', 'train UPerNet', 'evaluate', 'box AP', 'mIoU'):
        assert words in out
    (found,) = tmp_path.glob('work_dirs/demo/*/results.json')
    for name, task in json.loads(found.read_text())['tasks'].items():
        assert Path(tmp_path, task['checkpoint']).is_file()
        assert (found.parent / name / f'{name}.png').stat().st_size > 10_000
        assert all(0 <= value <= 1 for value in task['metrics'].values())
    before = found.read_bytes()

    status, out, _ = run_demo(tmp_path)
    assert status == 0
    assert 'from an earlier run' in out
    assert 'train' not in out.split('| task')[0].replace('trained', '')
    assert found.read_bytes() == before

    # a lost checkpoint takes everything that followed from it along
    detection = found.parent / 'detection'
    Path(detection / 'train/last_checkpoint').unlink()
    for checkpoint in detection.glob('train/*.pth'):
        checkpoint.unlink()
    status, out, err = run_demo(tmp_path)
    assert status == 0, out + err
    assert 'detection: evaluate' in out
    assert 'segmentation: evaluate' not in out


def test_every_model_has_both_configs():
    for configs in demo.MODELS.values():
        assert len(configs) == len(demo.TASKS)
        for config in configs:
            assert (demo.CONFIGS / config).is_file()


def test_jobs_run_side_by_side_and_steps_one_by_one(step, tmp_path):
    wait = 'import time; time.sleep(1)'
    order = []

    def job(name):
        for index in range(2):
            order.append(f'{name}{index}')
            yield step(wait, f'{name}{index}')

    begin = time.monotonic()
    assert demo.run_side_by_side(dict(a=job('a'), b=job('b'))) == 4
    assert order[:2] == ['a0', 'b0']
    assert set(order[2:]) == {'a1', 'b1'}
    assert time.monotonic() - begin > 2


def test_failure_stops_the_others_and_shows_the_log(step):
    others = []

    def failing():
        yield step('print("so it goes"); raise SystemExit(3)', 'failing')

    def long():
        others.append(step('import time; time.sleep(600)', 'long'))
        yield others[0]

    with pytest.raises(demo.Failure, match=r'(?s)status 3.*so it goes.*failing\.log'):
        demo.run_side_by_side(dict(b=long(), a=failing()))
    assert others[0].process.poll() is not None


def test_progress_is_read_from_the_log(step, tmp_path):
    one = step('pass')
    assert one.progress() == 'is starting'
    line = (
        '2026/01/01 - mmengine - INFO - Iter(train) [ 20/550]  lr: 1e-3  eta: 0:02:41'
    )
    one.log.write_text(f'{line}  grad_norm: 3.2  loss: 1.25  loss_cls: 0.4\n')
    assert one.progress() == '20/550, loss 1.25, 0:02:41 left'
    one.log.write_text('Iter(test) [10/100]    eta: 0:00:07  time: 0.1\nmore\n')
    assert one.progress() == '10/100, 0:00:07 left'
    one.process.wait()


def test_second_demo_is_kept_out_while_tools_run(tmp_path):
    path = tmp_path / 'lock'
    lock = demo.take_lock(path)
    waiting = ['-c', 'import time; time.sleep(600)']
    orphan = demo.Step('step', waiting, tmp_path / 'log', lock)
    with pytest.raises(demo.Failure, match='another demo'):
        demo.take_lock(path)
    os.close(lock)
    with pytest.raises(demo.Failure, match='another demo'):
        demo.take_lock(path)
    orphan.process.kill()
    orphan.process.wait()
    os.close(demo.take_lock(path))


def test_tools_die_with_a_killed_demo(tmp_path):
    code = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from tools.demo import __main__ as demo
lock = demo.take_lock(Path('lock'))
step = demo.Step('s', ['-c', 'import time; time.sleep(600)'], Path('log'), lock)
print('pid', step.process.pid, flush=True)
time.sleep(600)
"""
    parent = subprocess.Popen(
        [sys.executable, '-c', code], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    for line in parent.stdout:
        if line.startswith('pid'):
            child = int(line.split()[1])
            break
    time.sleep(1)  # the child sets its death signal before it starts
    parent.kill()
    parent.wait()
    for _ in range(100):
        state = Path(f'/proc/{child}/stat')
        if not state.exists() or state.read_text().split()[2] == 'Z':
            return
        time.sleep(0.1)
    pytest.fail(f'process {child} lives on')


def test_missing_module_is_named(monkeypatch):
    monkeypatch.setattr(demo, 'NEEDED', ('torch', 'no_such_module'))
    with pytest.raises(demo.Failure, match='no_such_module cannot be imported'):
        demo.check_machine()


def test_full_disk_is_said(monkeypatch):
    monkeypatch.setattr(demo, 'FREE_GIGABYTES', 1e9)
    with pytest.raises(demo.Failure, match='free some space'):
        demo.check_machine()


@pytest.mark.parametrize('key', ['model', 'configs', 'options', 'data', 'device'])
def test_key_follows_from_everything(key):
    content = dict(model='m', configs='c', options=[], data='d', device='CPU')
    other = dict(content, **{key: 'other'})
    assert results.key_of(content) == results.key_of(dict(content))
    assert results.key_of(content) != results.key_of(other)


def test_changed_parts_are_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = Path('work_dirs/demo/m-old')
    before.mkdir(parents=True)
    content = dict(followed_from=dict(data='1', sources='1'))
    (before / 'results.json').write_text(json.dumps(content))
    now = dict(data='1', sources='2')
    assert demo.changes_since_last(Path('work_dirs/demo/m-new'), 'm', now) == [
        'sources'
    ]
    assert demo.changes_since_last(before, 'm', now) == []
    assert demo.changes_since_last(Path('work_dirs/demo/n-new'), 'n', now) == []


@pytest.mark.parametrize(
    'found, metrics',
    [
        ({'coco/bbox_mAP': 0.5, 'mIoU': 50.0}, {'AP': 0.5, 'mIoU': 0.5}),
        ({'mIoU': 81.23}, {'AP': 0.0, 'mIoU': 0.8123}),
    ],
)
def test_metrics_are_fractions(tmp_path, found, metrics):
    path = tmp_path / 'stamp/stamp.json'
    path.parent.mkdir()
    path.write_text(json.dumps(found))
    wanted = {'AP': 'coco/bbox_mAP', 'mIoU': 'mIoU'}
    assert results.read_metrics(tmp_path, wanted) == metrics


def test_table_has_a_row_for_each_task():
    task = dict(
        method='UPerNet',
        metrics={'mIoU': 0.81234},
        training_seconds=125.4,
        resumed=True,
        evaluation_seconds=9.9,
    )
    row = results.table(dict(segmentation=task)).splitlines()[2]
    wanted = (
        '| segmentation | UPerNet | mIoU 0.812 | 2:05 (after an interruption) | 0:09 |'
    )
    assert row == wanted
