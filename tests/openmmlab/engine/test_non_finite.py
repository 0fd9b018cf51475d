"""A loss that is not finite is named, and stops, skips or warns in all processes."""

import itertools
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData, PixelData
from openmmlab.engine import tiny, toy
from openmmlab.engine.test_distributed import free_port, start

from mmssm.openmmlab import cli
from mmssm.openmmlab.engine import NonFiniteLossHook
from mmssm.openmmlab.engine.batches import as_plain, from_plain, picture_paths
from mmssm.weights import load_file, save_file

NUMBERS = itertools.count()
NAN = 'model.nan_at=(4,5)'


def train(config, work_dir, *flags, changes=()):
    name = f'experiment_name=nan{next(NUMBERS)}'
    arguments = [str(config), '--work-dir', str(work_dir), *flags]
    cli.train([*arguments, '--cfg-options', name, *changes])


def state(work_dir, name='iter_18.pth'):
    return torch.load(work_dir / name, weights_only=False)


@pytest.fixture
def config(tmp_path):
    return toy.write_config(tmp_path)


def test_stops_by_default_and_saves_the_batch(config, tmp_path):
    with pytest.raises(SystemExit) as stop:
        train(config, tmp_path / 'run', changes=[NAN])
    text = stop.value.code
    assert '\n' not in text
    assert 'the loss of iteration 4 is not finite: loss_b is nan, with a batch' in text
    assert 'acc' not in text
    (path,) = (tmp_path / 'run').glob('*.pth')
    assert f'{path}; repeat it by python tools/analysis/replay_batch.py' in text
    saved = load_file(path)
    assert saved['meta']['iter'] == 4
    assert [tuple(x.shape) for x in saved['batch']['inputs']] == [(4,), (4,)]
    assert 'net.0.weight' in saved['state_dict']


def test_skipping_changes_nothing_but_statistics(config, tmp_path, capsys):
    short = ['train_cfg.max_iters=3', 'train_cfg.val_interval=9']
    often = ['default_hooks.checkpoint.interval=1']
    train(config, tmp_path / 'short', changes=[*short, *often])
    long = ['train_cfg.max_iters=5', *short[1:], *often]
    train(config, tmp_path / 'long', '--on-nan', 'skip', changes=[*long, NAN])
    before = state(tmp_path / 'long', 'iter_5.pth')
    weights = before['state_dict']
    momentum = before['optimizer']['state']
    text = capsys.readouterr().out
    assert 'iteration 5 is not finite' in text
    assert '2 of 5 steps were left out' in text
    assert all(x.isfinite().all() for x in weights.values())
    assert weights['net.1.num_batches_tracked'] == 5  # statistics are not undone
    reference = tmp_path / 'reference'
    fewer = [*short, 'model.nan_at=(9,)', *often]
    train(config, reference, '--on-nan', 'skip', changes=fewer)
    after = state(reference, 'iter_3.pth')
    for name, value in after['state_dict'].items():
        if 'running' not in name and 'num_batches' not in name:
            assert torch.equal(value, weights[name]), name
    for key, value in after['optimizer']['state'].items():
        for part, tensor in value.items():
            assert torch.equal(tensor, momentum[key][part])


def test_warning_takes_the_step(config, tmp_path, capsys):
    train(config, tmp_path, '--on-nan', 'warn', changes=['model.nan_at=(9,)'])
    assert 'loss_b is nan' in capsys.readouterr().out
    assert state(tmp_path)['state_dict']['net.0.weight'].isnan().any()


def test_accumulated_steps_are_filled_up(config, tmp_path):
    changes = ['optim_wrapper.accumulative_counts=2', 'train_cfg.val_interval=18']
    train(config, tmp_path, '--on-nan', 'skip', changes=[*changes, NAN])
    saved = state(tmp_path)
    assert saved['state_dict']['net.0.weight'].isfinite().all()
    assert saved['state_dict']['net.1.num_batches_tracked'] == 18


def test_gradients_that_overflow_in_float16_are_the_scalers(config, tmp_path, capsys):
    flags = ['--amp', 'fp16', '--on-nan', 'stop']
    loud = ['model.nan_at=(99,)', 'optim_wrapper.optimizer.lr=0.0']
    from torch.amp import GradScaler

    plain = GradScaler.__init__

    def huge(self, *args, **options):
        plain(self, *args, **{**options, 'init_scale': 2.0**60})

    GradScaler.__init__ = huge
    try:
        train(config, tmp_path, *flags, changes=loud)
    finally:
        GradScaler.__init__ = plain
    assert 'not finite' not in capsys.readouterr().out
    assert state(tmp_path)['optimizer']['loss_scaler']['scale'] < 2.0**60


def test_loss_that_is_nan_in_float16_stops(config, tmp_path):
    with pytest.raises(SystemExit, match='iteration 4 .*loss_b is nan'):
        train(config, tmp_path, '--amp', 'fp16', changes=[NAN])


@pytest.mark.parametrize('task', ['detection', 'segmentation'])
def test_pictures_are_named_and_the_batch_can_be_repeated(tmp_path, task):
    tiny.write_data(tmp_path / 'data')
    config = tiny.write_config(tmp_path, task)
    huge = 'optim_wrapper.optimizer.lr=1e30'
    with pytest.raises(SystemExit) as stop:
        train(config, tmp_path / 'run', changes=[huge])
    text = stop.value.code
    term = dict(detection='loss_(cls|bbox)', segmentation='decode.loss_ce')[task]
    found = re.search(rf'iteration \d is not finite: .*{term} is (nan|inf)', text)
    assert found, text
    picture = re.search(r'with (\S+\.png); its batch', text)[1]
    assert picture.startswith(f'{tmp_path}/data/images/')
    (file,) = (tmp_path / 'run').glob('non_finite*')
    done = subprocess.run(
        [sys.executable, 'tools/analysis/replay_batch.py', str(config), str(file)],
        cwd=toy.ROOT,
        env=toy.environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(rf'{term}: (nan|inf)', done.stdout)
    assert 'not finite in the batch: nothing' in done.stdout
    assert re.search(r'not finite: backbone\.\S+ \(\w+\)', done.stdout)


@pytest.mark.parametrize('action', ['stop', 'skip'])
def test_one_rank_of_two(config, tmp_path, action):
    process = start(
        'dist_train.sh',
        config,
        2,
        '--work-dir',
        tmp_path / 'run',
        '--on-nan',
        action,
        '--cfg-options',
        NAN,
        'model.nan_rank=1',
        'train_cfg.max_iters=6',
        PORT=free_port(),
    )
    text, _ = process.communicate(timeout=120)
    said = 'iteration 4 is not finite: loss_b is nan on rank 1, with a batch'
    assert said in text, text
    if action == 'stop':
        assert process.returncode != 0
        assert text.count(said) == 1
        (path,) = (tmp_path / 'run').glob('*.pth')
        assert path.name == 'non_finite_iter_4_rank_1.pth'
    else:
        assert process.returncode == 0, text
        assert '2 of 6 steps were left out' in text
        weights = state(tmp_path / 'run', 'iter_6.pth')['state_dict']
        assert weights['net.0.weight'].isfinite().all()


def test_the_hook_of_the_config_is_used(config, tmp_path, capsys):
    hook = "dict(type='mmssm.NonFiniteLossHook', action='warn')"
    config.write_text(config.read_text().replace("dict(type='DieHook')", hook))
    train(config, tmp_path / 'own', changes=[NAN])
    assert 'the step is taken' in capsys.readouterr().out
    with pytest.raises(SystemExit, match='iteration 4'):
        train(config, tmp_path / 'flag', '--on-nan', 'stop', changes=[NAN])


def test_unknown_action():
    with pytest.raises(ValueError, match="'halt'; expected one of"):
        NonFiniteLossHook('halt')


def test_structures_survive_a_file(tmp_path):
    from mmdet.structures import DetDataSample
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks, PolygonMasks
    from mmseg.structures import SegDataSample

    polygon = [np.array([0.0, 0, 3, 0, 3, 3])]
    detection = DetDataSample(
        metainfo=dict(img_path='a.png', scale_factor=(np.float64(2.0), 1.0)),
        gt_instances=InstanceData(
            bboxes=HorizontalBoxes(torch.rand(1, 4)),
            labels=torch.tensor([3]),
            masks=BitmapMasks(np.eye(4, dtype=np.uint8)[None], 4, 4),
        ),
        ignored_instances=InstanceData(masks=PolygonMasks([polygon], 4, 5)),
    )
    segmentation = SegDataSample(
        metainfo=dict(img_path='b.png'),
        gt_sem_seg=PixelData(data=torch.ones(1, 4, 4, dtype=torch.long)),
    )
    batch = dict(inputs=[torch.zeros(3, 4, 4)], data_samples=[detection, segmentation])
    assert picture_paths(batch) == ['a.png', 'b.png']
    save_file(dict(batch=as_plain(batch)), tmp_path / 'batch.pth')
    again = from_plain(load_file(tmp_path / 'batch.pth')['batch'])
    first, second = again['data_samples']
    assert type(first) is DetDataSample
    assert first.scale_factor == (2.0, 1.0)
    boxes = first.gt_instances.bboxes
    assert torch.equal(boxes.tensor, detection.gt_instances.bboxes.tensor)
    assert np.array_equal(first.gt_instances.masks.masks[0], np.eye(4))
    assert first.ignored_instances.masks.height == 4
    assert np.array_equal(first.ignored_instances.masks.masks[0][0], polygon[0])
    assert type(second) is SegDataSample
    assert second.gt_sem_seg.data.dtype == torch.long
    with pytest.raises(TypeError, match='a batch with builtins.object'):
        as_plain(dict(x=object()))
