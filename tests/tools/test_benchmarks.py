"""The suite refuses wrong results, and reports what it measures."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mmssm.backbones import SpatialMamba
from mmssm.ops import dispatch
from tools.benchmarks import backbones, layers, measure, parity_gate, report, run, suite
from tools.benchmarks.case import Case, Prepared, Setting, select

ROOT = Path(__file__).parents[2]
SMALL = ['--sizes', '32x40', '--repeats', '2', '--no-peak']
FUSION = ['--groups', 'ops', '--cases', 'state_fusion', *SMALL]
CHEAP = ['--cases', 'ops/*', 'ssm2d-1e-6', 'vminet-ti', '--mode', 'training']
ARCH = {'channels': 16, 'depths': (1, 1, 1, 1)}


@pytest.fixture(autouse=True)
def threads():
    """As they were."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def status(arguments: list[str]) -> object:
    """What the command ends with: None or a number, or a message."""
    with pytest.raises(SystemExit) as end:
        run.main(arguments)
    return end.value.code


def twice_backward(run_naive, *inputs: Tensor) -> Tensor:
    """Right result, wrong gradients."""
    y = run_naive(*inputs)
    return 2 * y - y.detach()


def not_a_number(run_naive, *inputs: Tensor) -> Tensor:
    return run_naive(*inputs) * float('nan')


@pytest.fixture
def broken(monkeypatch, request):
    """The state fusion, alone and observed, as the parameter has it."""
    known = dispatch.registered()
    for op in ('state_fusion', 'observe'):
        (naive,) = (i for i in known[op] if i.name == 'naive')
        wrong = dispatch.Implementation('wrong', partial(request.param, naive.run))
        dispatch.register(op, [wrong, *known[op]])
    yield
    for op in ('state_fusion', 'observe'):
        dispatch.register(op, known[op])


@pytest.mark.parametrize('broken', [twice_backward, not_a_number], indirect=True)
def test_a_red_gate_stops_everything(broken, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(
        suite, 'take_turns', lambda *_: pytest.fail('something is timed')
    )
    results = tmp_path / 'results.json'
    assert status([*FUSION, '--json', str(results)]) == 1
    assert 'nothing was timed: ops/state_fusion' in capsys.readouterr().out
    assert not results.exists()


def test_no_number_is_passed_over():
    one, nan = torch.ones(2), torch.tensor([1.0, float('nan')])
    error = parity_gate.largest_error(([one], [one, nan]), ([one], [one, one]))
    assert not error <= parity_gate.LIMIT


@pytest.mark.parametrize('broken', [twice_backward], indirect=True)
def test_the_gate_of_a_backbone_sees_its_ops(broken):
    assert parity_gate.network_error(SpatialMamba(ARCH)) > 1e-5


def test_the_gate_of_a_backbone_passes_and_leaves_the_ops():
    before = dispatch.registered()
    assert parity_gate.network_error(SpatialMamba(ARCH)) <= parity_gate.LIMIT
    assert dispatch.registered() == before


def test_registry_is_sound():
    known = suite.registry()
    assert {case.group for case in known.values()} == set(suite.GROUPS)
    for name, case in known.items():
        assert case.name == name
        assert case.peer is None or known[case.peer].gate is None
        assert case.gate or name.split('_')[-1].split('/')[-1] in (
            'swin-t',
            'convnext-t',
            'resnet-50',
            'timm-swin-t',
            'timm-convnext-t',
            'swin-block',
            'depthwise-7x7',
        )
    configs = {
        path.stem
        for path in (ROOT / 'configs').rglob('*.py')
        if not {'_base_', 'demo', 'comparison'} & {*path.parts}
        and not path.stem.endswith(('3x_coco', '_in1k', '_cifar100', '_tiny-imagenet'))
    }
    assert configs <= {name.split('/')[1] for name in known}


def test_cases_are_selected_by_pattern():
    names = ['ops/scan', 'ops/fusion', 'backbones/swin']
    assert select(names, ['sc*', 'backbones/*']) == ['ops/scan', 'backbones/swin']
    with pytest.raises(ValueError, match=r"'nothing' fits no case.*ops/scan"):
        select(names, ['nothing'])


def test_peers_come_with_the_cases(capsys):
    assert status(['--groups', 'backbones', '--cases', 'vminet-ti', '--list']) == 0
    peer = next(
        f'backbones/{name}'
        for name in ('swin-t', 'timm-swin-t', 'convnext-t')
        if name in backbones.backbones()
    )
    assert capsys.readouterr().out.split() == [peer, 'backbones/vminet-ti']


def test_ops_layers_and_backbones_need_torch_alone():
    program = (
        'import sys\n'
        "for name in ('mmengine', 'mmcv', 'mmdet', 'mmseg'): sys.modules[name] = None\n"
        'from tools.benchmarks import run\n'
        f'run.main({[*SMALL, *CHEAP]})\n'
    )
    ran = subprocess.run(
        [sys.executable, '-c', program],
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert 'segmentors are skipped: mmdet and mmseg cannot be imported' in ran.stdout
    assert '| ssm2d | 1 of 32x40 |' in ran.stdout
    assert '| ssm2d-1e-6 | 1 of 32x40 |' in ran.stdout
    assert '| convnext-t | 1 of 32x40 |' in ran.stdout
    assert '| vminet-ti | 1 of 32x40 |' in ran.stdout


def test_results_are_written_for_programs_and_people(tmp_path):
    page = tmp_path / 'page.md'
    page.write_text(f'# Title\n\n{report.MARK.format("cpu")}\nold\n{report.END}\nend\n')
    files = {name: tmp_path / f'new/results.{name}' for name in ('json', 'markdown')}
    options = [part for name, path in files.items() for part in (f'--{name}', path)]
    scan = ['--groups', 'ops', '--cases', '*selective_scan', *SMALL]
    assert status([*scan, *map(str, options), '--into', str(page), 'cpu']) == 0
    written = json.loads(files['json'].read_text())
    assert {'torch', 'device', 'TF32', 'threads', 'dtype', 'batch', 'commit'} <= set(
        written['about']
    )
    inference, training = written['rows']
    assert (inference['mode'], training['mode']) == ('inference', 'training')
    assert len(inference['seconds']) == 2
    assert inference['of_copy_bandwidth'] > 0
    table = files['markdown'].read_text()
    assert '| selective_scan | 1 of 32x40 |' in table
    assert page.read_text().startswith('# Title')
    assert page.read_text().endswith(f'{report.END}\nend\n')
    assert table.strip() in page.read_text()
    assert 'old' not in page.read_text()


def test_a_page_without_the_place_is_refused_before_anything_runs(tmp_path):
    page = tmp_path / 'page.md'
    page.write_text('nothing')
    assert "no place for 'cpu'" in status([*FUSION, '--into', str(page), 'cpu'])


def test_contenders_take_turns():
    calls = []

    def timer(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    timers = {name: partial(timer, name) for name in 'ab'}
    assert measure.take_turns(timers, repeats=2) == {'a': [3.0, 5.0], 'b': [4.0, 6.0]}
    assert calls == list('ababab')


def test_peak_is_what_the_work_takes():
    peak = measure.peak_bytes(lambda: torch.ones(10**7) + 1)
    assert peak == pytest.approx(8 * 10**7, rel=0.05)


@pytest.mark.parametrize('text', ['512', '0x5', 'axb', '1x2x3'])
def test_a_size_that_is_none(text):
    with pytest.raises(ValueError, match='expected HxW'):
        measure.size_of(text)


def test_a_step_counts_what_the_scan_must_move():
    from tools.benchmarks.ops import OPS, scan_traffic

    inputs = OPS['selective_scan'].inputs(2, 6, 3, 4)
    assert scan_traffic(inputs) == 4 * 2 * 12 * (6 + 6 + 6 + 1)


@pytest.mark.parametrize('name', list(layers.ours()))
def test_layers_and_the_released_algorithm_are_as_defined(name):
    assert layers.ours()[name].gate('cpu') <= parity_gate.LIMIT


def test_a_wrong_layer_is_seen():
    wrong = layers.Ours(wrap=lambda layer, size: torch.nn.Sequential(layer, Half()))
    assert wrong.gate('cpu') > 0.1


class Half(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 2


def test_the_released_algorithm_takes_small_squares_alone():
    case = suite.registry(['layers'])[f'layers/{layers.RELEASED}']
    sizes = [(128, 128), (132, 132), (128, 124)]
    assert [case.fits(Setting(size)) for size in sizes] == [True, False, False]


def test_a_batch_for_each_size():
    args = run.parse(
        ['--sizes', '8x8', '9x9', '--batch', '4', '2', '--mode', 'training']
    )
    assert [(s.size, s.batch) for s in run.settings(args)] == [((8, 8), 4), ((9, 9), 2)]
    args.batch = [3]
    assert [s.batch for s in run.settings(args)] == [3, 3]
    args.batch = [1, 2, 3]
    with pytest.raises(ValueError, match='3 numbers for 2 sizes'):
        run.settings(args)


def test_a_case_that_runs_out_of_memory_leaves_the_others(capsys, monkeypatch):
    def too_large(setting: Setting) -> Prepared:
        raise torch.OutOfMemoryError

    def some(groups: object) -> dict[str, Case]:
        work = Prepared(lambda: torch.ones(3).sum())
        cases = Case('ops/a', too_large), Case('ops/b', lambda setting: work)
        return {case.name: case for case in cases}

    monkeypatch.setattr(run, 'registry', some)
    assert status([*SMALL, '--mode', 'inference']) == 0
    out = capsys.readouterr().out
    assert '| a | 1 of 32x40 | out of memory |' in out
    assert '| b | 1 of 32x40 | 0.' in out


def test_the_machine_tells_its_vector_instructions():
    about = measure.machine('cpu')
    assert about['CPU capability'] == torch.backends.cpu.get_cpu_capability()


def test_a_device_that_is_not_there_is_named(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(SystemExit):
        run.parse(['--device', 'cuda'])
    assert 'torch sees no GPU on this machine; use cpu' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run.parse(['--device', 'gpu'])
    assert "'gpu' is no device of torch" in capsys.readouterr().err
