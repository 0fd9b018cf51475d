"""Comparisons: what is trained on what, what is kept, and what the table says."""

import json
import statistics

import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from openmmlab.engine import tiny

from mmssm.openmmlab.errors import UserError
from tools.analysis import compare
from tools.analysis.comparison import one_run, plan, summary
from tools.demo.steps import Failure

NAMES = [f'{number:02d}.png' for number in range(20)]
# stands for one_run: a metric that follows from folder and seed; 'bad' fails
STUB = """
import json, os, sys
from pathlib import Path
folder = Path(sys.argv[1])
(folder / 'starts').open('a').write('x')
label, _, seed = folder.parts[-3:]
if label == 'bad':
    print('out of ideas')
    raise SystemExit(3)
result = dict(
    metrics={'mIoU': 0.5 + 0.1 * int(seed)}, iterations=7, parameters=2_000_000,
    backbone_parameters=1_000_000, training_seconds=3.0,
    made_with=dict(threads=os.environ['OMP_NUM_THREADS'], flags=sys.argv[2:]))
(folder / 'result.json').write_text(json.dumps(result))
"""


@pytest.fixture
def configs(tmp_path):
    """Paths of a segmentation and a detection config with their data."""
    tiny.write_data(tmp_path / 'data')
    return {
        task: str(tiny.write_config(tmp_path, task))
        for task in ('segmentation', 'detection')
    }


@pytest.fixture
def run_stub(tmp_path, monkeypatch, configs):
    """Compares with the stub in place of trainings; returns the numbers."""
    stub = tmp_path / 'stub.py'
    stub.write_text(STUB)
    monkeypatch.setattr(compare, 'ONE_RUN', [str(stub)])
    out = tmp_path / 'out'

    def run(labels, *options):
        paths = [configs['segmentation']] * len(labels)
        words = [*paths, '--labels', *labels, '--out', str(out), *options]
        args = compare.parse(words)
        failed = compare.compare(args)
        return failed, json.loads((out / 'table.json').read_text())

    run.out = out
    return run


def starts(out):
    return {
        '/'.join(path.parts[-4:-1]): len(path.read_text())
        for path in out.glob('*/*/*/starts')
    }


def test_all_seeds_once_then_nothing_again(run_stub):
    options = ('--seeds', '0', '2', '--iterations', '7', '--threads', '3')
    failed, numbers = run_stub(['a', 'b'], *options, '--jobs', '2')
    assert failed == 0
    assert starts(run_stub.out) == {
        f'{label}/100/{seed}': 1 for label in 'ab' for seed in (0, 2)
    }
    (mean,) = {row['metrics']['mIoU']['mean'] for row in numbers['rows']}
    assert mean == pytest.approx(0.6)
    made = numbers['runs'][0]['made_with']
    assert made == dict(threads='3', flags=['--fit-schedule'])
    text = (run_stub.out / 'table.md').read_text()
    assert '| a | 0.600 ± 0.141 | 2.000 | 1.000 | 3 ± 0 | 0, 2 |' in text
    assert (run_stub.out / 'plot.png').stat().st_size > 5000

    _, again = run_stub(['a', 'b'], '--seeds', '0', '1', '2', '--iterations', '7')
    assert set(starts(run_stub.out).values()) == {1}
    assert again['rows'][0]['seeds'] == [0, 1, 2]
    assert again['rows'][0]['metrics']['mIoU']['mean'] == pytest.approx(0.6)


def test_a_failed_run_is_named_and_tried_again(run_stub, capsys):
    failed, numbers = run_stub(['bad', 'a'], '--seeds', '0', '1')
    assert failed == 2
    bad, good = numbers['rows']
    assert (bad['seeds'], bad['metrics']) == ([], {})
    assert good['seeds'] == [0, 1]
    text = (run_stub.out / 'table.md').read_text()
    assert '* bad, 100 %, seed 1: out of ideas' in text
    assert 'none (failed: 0, 1)' in text
    assert 'status 3' in capsys.readouterr().out

    run_stub(['bad', 'a'], '--seeds', '0', '1')
    assert starts(run_stub.out)['bad/100/0'] == 2
    assert starts(run_stub.out)['a/100/0'] == 1


def test_changed_settings_are_named_and_not_mixed(run_stub):
    run_stub(['a'], '--seeds', '0')
    change = ('--cfg-options', 'optim_wrapper.optimizer.lr=0.5')
    expected = r'a, 100 %, seed 0: optim_wrapper\.optimizer\.lr: 0\.001 -> 0\.5'
    with pytest.raises(Failure, match=expected):
        run_stub(['a'], '--seeds', '0', '1', *change)
    assert starts(run_stub.out) == {'a/100/0': 1}
    with pytest.raises(Failure, match='train_cfg.max_iters: 4 -> 9'):
        run_stub(['a'], '--seeds', '0', '--iterations', '9')

    run_stub(['a'], '--seeds', '0', '1', *change, '--fresh')
    assert starts(run_stub.out) == {'a/100/0': 1, 'a/100/1': 1}
    again = Config.fromfile(run_stub.out / 'a/100/0/config.py')
    assert again.optim_wrapper.optimizer.lr == 0.5


def test_a_config_that_no_code_reads_stops_before_anything_runs(run_stub):
    with pytest.raises(SystemExit, match=r'(?s)compare: .*optimizr'):
        compare.main(
            [str(run_stub.out.parent / 'segmentation.py'), '--cfg-options']
            + ['optim_wrapper.optimizr.lr=1', '--out', str(run_stub.out)]
        )
    assert starts(run_stub.out) == {}


def test_a_run_has_a_seed_a_length_and_no_validation(configs):
    cfg = Config.fromfile(configs['detection'])
    run = plan.derive(cfg, seed=5, iterations=20)
    assert run.train_cfg == dict(
        type='IterBasedTrainLoop', max_iters=20, val_interval=21
    )
    assert run.randomness.seed == 5
    assert run.val_dataloader is run.val_cfg is run.val_evaluator is None
    assert (run.default_hooks.checkpoint.by_epoch, run.log_processor.by_epoch) == (
        False,
        False,
    )
    assert run.test_dataloader == cfg.test_dataloader
    assert cfg.to_dict() == Config.fromfile(configs['detection']).to_dict()
    own = plan.derive(cfg, seed=5)
    assert own.train_cfg == cfg.train_cfg

    cfg.test_dataloader = cfg.test_cfg = cfg.test_evaluator = None
    assert plan.derive(cfg, 0).test_dataloader == cfg.val_dataloader
    cfg.val_evaluator = None
    with pytest.raises(UserError, match='lacks test_evaluator'):
        plan.derive(cfg, 0)


def drawn(names, fraction, seed, dataset=None):
    """The names that a share holds."""
    dataset = dataset or dict(type='BaseSegDataset')
    cfg = Config(dict(train_dataloader=dict(dataset=dataset)))
    plan.take(cfg, fraction, seed, names)
    chosen = cfg.train_dataloader.dataset
    return [names[index] for index in chosen.get('dataset', chosen).indices]


def test_a_share_is_the_same_whatever_the_order_of_the_data():
    one = drawn(NAMES, 0.35, 0)
    assert len(one) == len(set(one)) == 7
    assert sorted(one) == sorted(drawn(NAMES[::-1], 0.35, 0))
    assert sorted(one) != sorted(drawn(NAMES, 0.35, 1))
    wrapped = dict(type='RepeatDataset', times=2, dataset=dict(type='CocoDataset'))
    assert sorted(one) == sorted(drawn(NAMES, 0.35, 0, wrapped))


def test_what_no_share_can_be_taken_of_is_said():
    with pytest.raises(UserError, match='0.01 of 20 pictures are 0; expected'):
        drawn(NAMES, 0.01, 0)
    with pytest.raises(UserError, match='1.5 of 20 pictures are 30; expected'):
        drawn(NAMES, 1.5, 0)
    joined = dict(type='ConcatDataset', datasets=[])
    with pytest.raises(UserError, match='are a ConcatDataset'):
        drawn(NAMES, 0.5, 0, joined)
    with pytest.raises(UserError, match='has `indices` already'):
        drawn(NAMES, 0.5, 0, dict(type='CocoDataset', indices=5))


def test_all_configs_train_on_the_same_pictures(configs):
    found = []
    for path in configs.values():
        cfg = Config.fromfile(path)
        plan.take(cfg, 0.5, 3, plan.picture_names(cfg))
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            dataset = DATASETS.build(dict(cfg.train_dataloader.dataset, pipeline=[]))
        dataset.full_init()
        assert len(dataset) == tiny.COUNT // 2
        found.append({dataset.get_data_info(i)['img_path'] for i in range(2)})
    assert found[0] == found[1]


def test_whole_data_need_no_choice():
    cfg = Config(dict(train_dataloader=dict(dataset=dict(type='ConcatDataset'))))
    plan.take(cfg, 1, 0, NAMES)
    assert 'indices' not in cfg.train_dataloader.dataset


def test_differences_name_settings_in_full():
    before = dict(a=dict(b=(1, 2)), hooks=[dict(x=1), dict(y=2)], gone=None)
    now = dict(a=dict(b=[1, 2]), hooks=[dict(x=1), dict(y=3)], new='n')
    assert plan.differences(before, before) == []
    assert plan.differences(before, now) == [
        'hooks.1.y: 2 -> 3',
        'gone: None -> not set',
        'new: not set -> n',
    ]
    assert len(plan.differences(dict(a=[*range(99)]), dict(a=[*range(98)]))[0]) < 99


@pytest.mark.parametrize(
    ('evaluator', 'found', 'metrics'),
    [
        (dict(type='IoUMetric'), {'aAcc': 91.0, 'mIoU': 43.0}, {'mIoU': 0.43}),
        (dict(type='mmdet.CocoMetric', metric='bbox'), {}, {'box AP': 0.0}),
        (
            [dict(type='CocoMetric', metric=['bbox', 'segm'])],
            {'coco/bbox_mAP': 0.3, 'coco/segm_mAP': 0.2, 'coco/bbox_mAP_50': 0.5},
            {'box AP': 0.3, 'mask AP': 0.2},
        ),
        (dict(type='Mine'), {'mine': 3}, {'mine': 3.0}),
    ],
)
def test_main_metrics_are_fractions(evaluator, found, metrics):
    assert one_run.main_metrics(evaluator, found) == pytest.approx(metrics)


def outcome(label, seed, value, fraction=1.0, **made_with):
    run = plan.Run(label, fraction, seed, None)
    result = dict(
        metrics={'mIoU': value},
        iterations=10,
        parameters=3_000_000,
        backbone_parameters=1_000_000,
        training_seconds=60.0,
        made_with=made_with,
    )
    return summary.Outcome(run, result)


def test_the_spread_is_the_sample_standard_deviation():
    assert summary.spread([0.1, 0.2, 0.4]) == '0.233 ± 0.153'
    assert summary.spread([0.25]) == '0.250'
    numbers = summary.to_numbers([outcome('a', s, v) for s, v in enumerate([1, 2, 4])])
    told = numbers['rows'][0]['metrics']['mIoU']
    assert told['sample_standard_deviation'] == statistics.stdev([1, 2, 4])


def test_runs_of_different_machines_are_told():
    same = [outcome('a', 0, 0.1, cpu='x'), outcome('a', 1, 0.2, cpu='x')]
    assert 'differ' not in summary.to_markdown(same)
    mixed = summary.to_markdown([*same, outcome('b', 0, 0.1, cpu='y')])
    assert '**The runs differ in cpu.**' in mixed
    assert 'cpu: x / y' in mixed


def test_shares_are_rows_and_lines(tmp_path):
    outcomes = [
        outcome(label, seed, 0.1 * seed + share, share)
        for label in 'ab'
        for share in (0.5, 1.0)
        for seed in (0, 1)
    ]
    text = summary.to_markdown(outcomes)
    assert '| a | 50 % | 0.550 ± 0.071 |' in text
    assert summary.draw(str(tmp_path / 'plot.png'), outcomes)
    assert (tmp_path / 'plot.png').stat().st_size > 5000
    assert not summary.draw(str(tmp_path / 'no.png'), [])


def test_names_in_a_plot_leave_out_what_all_have():
    stems = ['mask-rcnn_swin-ssm2d-1300k_fpn', 'mask-rcnn_mila-1300k_fpn']
    assert [*summary.short_names(stems).values()] == ['swin-ssm2d', 'mila']
    assert summary.short_names(['a-b']) == {'a-b': 'a-b'}
    assert [*summary.short_names(['swin', 'swin-ssm2d']).values()] == [
        'swin',
        'swin-ssm2d',
    ]


def test_unequal_budgets_are_told(configs):
    cfg = Config.fromfile(configs['segmentation'])
    other = Config.fromfile(configs['segmentation'])
    other.train_dataloader.batch_size = 2
    runs = {plan.Run(label, 1.0, 0, None): c for label, c in (('a', cfg), ('b', other))}
    (note,) = compare.unequal(runs)
    assert 'a -> b, batch_size: 1 -> 2' in note
    assert compare.unequal(dict.fromkeys(runs, cfg)) == []


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        (['a.py', 'b.py', '--labels', 'x'], 'give one for each'),
        (['a.py', '--seeds', '1', '1'], '--seeds: 1 is there twice'),
        (['a/x.py', 'b/x.py'], '--labels: x is there twice'),
        (['a.py', '--labels', '../x'], 'cannot be the name of a folder'),
        (['a.py', '--jobs', '0'], '--jobs is 0'),
        (['a.py', '--iterations', '-3'], '--iterations is -3'),
    ],
)
def test_wrong_arguments_are_named(words, said, capsys):
    with pytest.raises(SystemExit):
        compare.parse(words)
    assert said in capsys.readouterr().err


def test_a_real_run_and_what_is_left_of_one_goes_on(configs, tmp_path):
    cfg = plan.derive(Config.fromfile(configs['segmentation']), 1, iterations=2)
    folder = tmp_path / 'run'
    folder.mkdir()
    (folder / 'config.py').write_text(cfg.pretty_text)
    one_run.main(folder, ['--fit-schedule'] if cfg.get('param_scheduler') else [])
    result = json.loads((folder / 'result.json').read_text())
    assert set(result['metrics']) == {'mIoU'}
    assert result['iterations'] == 2
    assert 0 < result['backbone_parameters'] < result['parameters']
    assert result['training_seconds'] > 0
    assert result['made_with']['CPU capability']

    (folder / 'result.json').unlink()  # as one that was interrupted in the end
    one_run.main(folder, [])
    again = json.loads((folder / 'result.json').read_text())
    assert again['metrics'] == result['metrics']
    logs = sorted(folder.glob('train/*/*.log'))
    assert len(logs) == 2
    assert 'resuming from' in logs[1].read_text()
    assert 'Iter(train)' not in logs[1].read_text()
