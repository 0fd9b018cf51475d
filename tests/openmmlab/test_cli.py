"""The two tools as their users call them, on a real detector and segmenter."""

import argparse
import itertools
import os
import pickle
import subprocess
import sys

import pytest
import torch
from openmmlab.engine import tiny, toy
from PIL import Image

from mmssm.openmmlab import cli
from mmssm.openmmlab.engine import mixed_precision

NUMBERS = itertools.count()


def flags(*changes):
    """mmengine shares logs between runs of one name within a second."""
    return ['--cfg-options', f'experiment_name=cli{next(NUMBERS)}', *changes]


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Folder with data, both configs, and a checkpoint of each: TASK/last.pth."""
    folder = tmp_path_factory.mktemp('tiny')
    tiny.write_data(folder / 'data')
    for task in ('detection', 'segmentation'):
        config = tiny.write_config(folder, task)
        amp = ['--amp', '--auto-scale-lr'] if task == 'detection' else []
        cli.train([str(config), '--work-dir', str(folder / task), *amp, *flags()])
        last = (folder / task / 'last_checkpoint').read_text()
        os.rename(last, folder / task / 'last.pth')
    return folder


@pytest.fixture
def test(trained, tmp_path, capsys):
    """Run the test tool; returns what it printed to standard error, and its status."""

    def run(task, *options, checkpoint=None, changes=()):
        config = str(trained / f'{task}.py')
        checkpoint = str(checkpoint or trained / task / 'last.pth')
        work_dir = ['--work-dir', str(tmp_path / 'run')]
        status = None
        try:
            cli.test([config, checkpoint, *work_dir, *options, *flags(*changes)])
        except SystemExit as error:
            status = error.code
        return status, capsys.readouterr().out

    return run


def test_detection_saves_and_draws_predictions(test, tmp_path):
    out, shown = tmp_path / 'out.pkl', tmp_path / 'shown'
    status, text = test('detection', '--out', str(out), '--show-dir', str(shown))
    assert status is None
    assert 'coco/bbox_mAP' in text
    predictions = pickle.loads(out.read_bytes())
    assert [p['img_id'] for p in predictions] == [1, 2, 3, 4]
    assert sorted(p.name for p in shown.iterdir()) == [f'{i}.png' for i in range(1, 5)]


def test_segmentation_saves_and_draws_predictions(test, tmp_path):
    out, shown = tmp_path / 'out', tmp_path / 'shown'
    status, text = test('segmentation', '--out', str(out), '--show-dir', str(shown))
    assert status is None
    assert 'mIoU' in text
    maps = [Image.open(path) for path in out.glob('*.png')]
    assert [(m.size, m.mode) for m in maps] == [((64, 64), 'L')] * 4
    assert len(list(shown.rglob('*.png'))) == 4


@pytest.mark.parametrize('task', ['detection', 'segmentation'])
def test_mixed_precision(test, task, monkeypatch):
    seen = []
    plain = mixed_precision.autocast

    def autocast(kind):
        seen.append(kind)
        return plain(kind)

    monkeypatch.setattr(mixed_precision, 'autocast', autocast)
    for flags_given in (['--amp'], ['--amp', 'bf16'], []):
        status, _ = test(task, *flags_given)
        assert status is None
    assert seen == ['auto', 'bf16', None]


@pytest.mark.parametrize('task', ['detection', 'segmentation'])
def test_augmented(test, task, tmp_path):
    status, _ = test(task, '--tta')
    assert status is None
    (log,) = tmp_path.glob('run/*/*.log')
    assert 'TTAModel' in log.read_text()


def test_checkpoint_of_another_model(test, trained):
    wrong = trained / 'detection/last.pth'
    status, _ = test('segmentation', checkpoint=wrong)
    assert 'decode_head.conv_seg.weight' in status
    assert 'bbox_head.retina_cls.weight' in status
    status, text = test('segmentation', '--lenient-keys', checkpoint=wrong)
    assert status is None
    assert 'does not fit the EncoderDecoder' in text


def test_mistakes_end_with_a_message(test, trained, tmp_path):
    cut = tmp_path / 'cut.pth'
    cut.write_bytes((trained / 'segmentation/last.pth').read_bytes()[:9000])
    assert 'not a complete checkpoint' in test('segmentation', checkpoint=cut)[0]
    status, _ = test('segmentation', checkpoint=tmp_path / 'absent.pth')
    assert status == f'mmssm-test: there is no checkpoint at {tmp_path}/absent.pth'
    status, _ = test('segmentation', changes=['model.backbone.depth=3'])
    assert 'model.backbone.depth: mmssm.SpatialMamba has no argument' in status
    status, text = test('detection', changes=['test_dataloader.dataset.data_root=/no'])
    assert 'test_dataloader.dataset.ann_file: /no/boxes.json' in status
    assert text == ''  # before anything is built


def test_what_building_finds_is_one_line(test):
    status, _ = test('segmentation', changes=['test_evaluator.type=AbsentMetric'])
    assert "test_evaluator.type is 'AbsentMetric'; there is no such metric" in status
    assert 'The traceback is in' in status
    assert len(status.splitlines()) == 1


def test_training_from_a_checkpoint_that_fits_in_part(trained, tmp_path, capsys):
    config = str(trained / 'segmentation.py')
    source = trained / 'detection/last.pth'
    changes = [f'load_from={source}', 'train_cfg.max_iters=1']
    cli.train([config, '--work-dir', str(tmp_path), *flags(*changes)])
    text = capsys.readouterr().out
    assert 'last.pth does not fit the EncoderDecoder' in text
    assert 'decode_head.conv_seg.weight' in text


def test_training_from_an_official_checkpoint(trained, tmp_path):
    name = 'layers.0.blocks.0.self_attention.state_fusion.alpha'
    torch.save(dict(model={name: torch.ones(3)}), tmp_path / 'official.pth')
    config = str(trained / 'segmentation.py')
    changes = [f'load_from={tmp_path}/official.pth']
    with pytest.raises(SystemExit, match=r'official_to_mmssm\.py'):
        cli.train([config, '--work-dir', str(tmp_path), *flags(*changes)])


def test_resume_of_nothing_starts_anew(tmp_path, capsys):
    config = toy.write_config(tmp_path)
    work_dir = tmp_path / 'run'
    cli.train([str(config), '--work-dir', str(work_dir), '--resume', *flags()])
    assert 'training starts anew' in capsys.readouterr().out
    assert (work_dir / 'iter_18.pth').is_file()
    with pytest.raises(SystemExit, match='no checkpoint at absent'):
        cli.train([str(config), '--resume', 'absent', *flags()])


def test_launcher_without_launch(monkeypatch, tmp_path):
    monkeypatch.delenv('RANK', raising=False)
    config = toy.write_config(tmp_path)
    with pytest.raises(SystemExit, match=r'RANK.*dist_train\.sh'):
        cli.train([str(config), '--launcher', 'pytorch'])


@pytest.mark.parametrize(
    'tool',
    ['train', 'test', 'analysis/get_flops', 'model_converters/official_to_mmssm'],
)
def test_tool_without_the_package(tmp_path, tool):
    script = str(toy.ROOT / f'tools/{tool}.py')
    code = f'import sys, runpy; sys.modules["mmssm"] = None; runpy.run_path({script!r})'
    done = subprocess.run(
        [sys.executable, '-S', '-c', code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f'tools/{tool}.py: the module mmssm')
    assert 'Traceback' not in done.stderr


@pytest.mark.parametrize('command', ['train', 'test', 'check_data', 'flops', 'convert'])
def test_help_needs_no_openmmlab(command):
    code = (
        'import sys; sys.modules.update(dict.fromkeys(("mmengine", "mmcv")))\n'
        f'from mmssm.openmmlab.cli import {command}; {command}(["--help"])'
    )
    done = subprocess.run(
        [sys.executable, '-c', code],
        env=toy.environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f'usage: mmssm-{command.replace("_", "-")} ')


def test_script_without_openmmlab():
    code = (
        'import sys, runpy; sys.modules["mmengine"] = None\n'
        f'runpy.run_path({str(toy.ROOT / "tools/analysis/vminet_metrics.py")!r})'
    )
    done = subprocess.run(
        [sys.executable, '-c', code],
        env=toy.environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith('vminet_metrics: the module mmengine is not installed')


def test_the_place_of_a_process_comes_from_flag_or_launcher(monkeypatch):
    parser = cli._parser('name', None)
    monkeypatch.delenv('LOCAL_RANK', raising=False)
    cli._parse(parser, ['config.py', '--local_rank', '3'])
    assert os.environ['LOCAL_RANK'] == '3'
    cli._parse(parser, ['config.py', '--local-rank', '1'])
    assert os.environ['LOCAL_RANK'] == '3'  # set by a launcher


@pytest.mark.parametrize(
    ('given', 'expected'),
    [
        ("[dict(type='EMAHook',momentum=0.02)]", [dict(type='EMAHook', momentum=0.02)]),
        ('dict(a=dict(b=(1,-2)),c=None)', dict(a=dict(b=(1, -2)), c=None)),
        ("{'a':[{'b':True}]}", {'a': [{'b': True}]}),
        ('{:08d}.png', '{:08d}.png'),
        ('[1,(2.5,x)]', [1, (2.5, 'x')]),
        ('None', None),
    ],
)
def test_settings_on_the_command_line(given, expected):
    parser = argparse.ArgumentParser()
    cli.add_options(parser)
    args = parser.parse_args(['--cfg-options', f'a.b={given}', 'c=1'])
    assert args.cfg_options == {'a.b': expected, 'c': 1}


@pytest.mark.parametrize(
    'given', ['[1,2', 'dict(a=print(1))', '[dict(**b)]', 'dict(1)']
)
def test_settings_that_are_none(given, capsys):
    parser = argparse.ArgumentParser()
    cli.add_options(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(['--cfg-options', f'a={given}'])
    assert f'--cfg-options a={given}: expected KEY=VALUE' in capsys.readouterr().err
