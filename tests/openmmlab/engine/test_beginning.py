"""Before the first iteration a run says what a person needs, and the file the rest."""

import itertools
import logging
import re
import warnings

import mmengine.logging
import pytest
from openmmlab.engine import tiny, toy

from mmssm.openmmlab import cli
from mmssm.openmmlab.engine import beginning
from mmssm.openmmlab.engine.quiet import use_quiet_imports

NUMBERS = itertools.count()


def train(config, work_dir, *changes):
    name = f'experiment_name=begin{next(NUMBERS)}'
    cli.train(
        [str(config), '--work-dir', str(work_dir), '--cfg-options', name, *changes]
    )


def test_notes_for_developers_are_not_printed(capsys):
    use_quiet_imports()
    use_quiet_imports()
    print_log = mmengine.logging.print_log
    print_log('datasets of another package are not there', level=logging.DEBUG)
    assert capsys.readouterr().out == ''
    print_log('a message', level=logging.INFO)
    print_log('a warning', None, logging.WARNING)
    assert capsys.readouterr().out.split('\n')[:2] == ['a message', 'a warning']
    with warnings.catch_warnings(record=True) as found:
        use_quiet_imports()
        warnings.warn('faster_coco_eval is not installed, so …', stacklevel=1)
        warnings.warn('another', stacklevel=1)
    assert [str(one.message) for one in found] == ['another']


def test_one_screen(tmp_path, capsys):
    tiny.write_data(tmp_path / 'data')
    config = tiny.write_config(tmp_path, 'segmentation')
    paramwise = (
        'optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult=0.1',
        'train_cfg.max_iters=2',
        'train_cfg.val_interval=9',
        'model.backbone.frozen_stages=1',
    )
    train(config, tmp_path / 'run', *paramwise)
    text = capsys.readouterr().out
    first = text[: text.index('Iter(train)')]
    assert len(first.splitlines()) <= 24, first
    assert 'requires_grad' not in first
    for words in (
        r'model +EncoderDecoder with SpatialMamba: 0\.05 M parameters, of which',
        r'data +BaseSegDataset: 4 samples, 1 for each of 1 processes',
        r'schedule +2 iterations; AdamW, learning rate 0\.0001 to 0\.001',
        r'device +cpu, float32; config, environment and hooks are in /.*\.log',
        rf'into +{tmp_path}/run',
    ):
        assert re.search(words, first), (words, first)
    for words in (
        'System environment',
        'Config:',
        'Hooks will be',
        'paramwise_options',
    ):
        assert words not in text
    log = re.search(r'hooks are in (\S+)', text)[1]
    with open(log) as file:
        content = file.read()
    for words in (
        'System environment',
        'Config:',
        'Hooks will be',
        'paramwise_options',
    ):
        assert words in content


def test_epochs_accumulation_and_mixed_precision(tmp_path, capsys):
    config = toy.write_config(tmp_path, 'epochs')
    changes = ['optim_wrapper.accumulative_counts=2']
    changes += ['optim_wrapper.type=AmpOptimWrapper', 'train_cfg.max_epochs=1']
    train(config, tmp_path, *changes)
    text = capsys.readouterr().out
    assert 'ToyModel: 0.00 M parameters\n' in text
    assert '12 samples, 2 for each of 1 processes, gradients of 2 batches' in text
    assert '1 epochs, 6 iterations; SGD, learning rate 0.001' in text
    assert 'cpu, bfloat16, mixed;' in text


def test_warnings_that_nobody_can_heed():
    beginning.use_short_beginning()
    with warnings.catch_warnings(record=True) as seen:
        beginning.use_short_beginning()
        warnings.warn('The draw is False, it means that the hook', stacklevel=1)
        warnings.warn('num_classes is wrong', stacklevel=1)
    assert [str(one.message) for one in seen] == ['num_classes is wrong']


@pytest.mark.parametrize('words', ['anything', 'a Config: in the middle'])
def test_other_records_are_shown(words):
    import logging

    record = logging.LogRecord('x', logging.INFO, 'p', 1, words, None, None)
    assert beginning.is_for_people(record)
