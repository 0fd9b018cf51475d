"""Learning curves: what a log says, over several starts, and what it cannot say."""

import json

import pytest

from mmssm.openmmlab import cli
from mmssm.openmmlab.errors import UserError
from mmssm.openmmlab.reporting.curves import draw, names, read_run


def write(folder, start, *rows, tail=''):
    place = folder / start / 'vis_data'
    place.mkdir(parents=True)
    text = ''.join(json.dumps(row) + '\n' for row in rows)
    (place / 'scalars.json').write_text(text + tail)


def step(number, **values):
    return dict(values, iter=number, step=number)


def test_starts_are_joined_and_a_later_one_replaces(tmp_path):
    write(
        tmp_path,
        '20260101_100000',
        *(step(i, loss=10.0 - i, lr=0.1) for i in (1, 2, 3)),
        {'coco/bbox_mAP': 0.25, 'time': 9.0, 'step': 1},
        *(step(i, loss=10.0 - i, lr=0.1) for i in (4, 5)),
    )
    write(
        tmp_path,
        '20260102_100000',
        *(step(i, loss=20.0 - i, lr=0.2) for i in (4, 5, 6)),
        {'coco/bbox_mAP': 0.5, 'step': 2},
    )
    run = read_run(tmp_path)
    assert run.training['loss'].steps == [1, 2, 3, 4, 5, 6]
    assert run.training['loss'].values == [9.0, 8.0, 7.0, 16.0, 15.0, 14.0]
    assert run.training['lr'].values == [0.1] * 3 + [0.2] * 3
    # its step is an epoch: the metric stands where it was measured
    assert run.validation == {'coco/bbox_mAP': ([3, 6], [0.25, 0.5])}
    (note,) = run.notes
    assert 'begins at iteration 4 and replaces what was logged before up to 5' in note


def test_a_metric_by_iteration_stands_at_its_own_step(tmp_path):
    write(
        tmp_path, '1', step(50, loss=1.0), {'mIoU': 40.0, 'step': 64}, step(100, loss=1)
    )
    assert read_run(tmp_path).validation == {'mIoU': ([64], [40.0])}


@pytest.mark.parametrize(
    'tail, said',
    [
        ('{"loss": 0.5, "iter": 3, "st', 'line 3 left out, damaged (the last: half'),
        ('\0\0\0', 'line 3 left out, damaged (the last: half written)'),
        ('[1, 2]\n"x"\n', 'lines 3, 4 left out, damaged'),
        ('{"loss": 1, "iter": 3, "step": "x"}', 'line 3 left out'),
    ],
)
def test_damaged_lines_are_left_out_and_said(tmp_path, tail, said):
    write(tmp_path, '1', step(1, loss=2.0), step(2, loss=1.0), tail=tail)
    run = read_run(tmp_path)
    assert run.training == {'loss': ([1, 2], [2.0, 1.0])}
    (note,) = run.notes
    assert said in note
    assert note.startswith('1/vis_data/scalars.json')


def test_losses_that_are_not_finite_are_named_and_null_in_json(tmp_path):
    write(tmp_path, '1', step(1, loss=2.0), step(2, loss=float('nan')))
    run = read_run(tmp_path)
    assert run.notes == ['loss is not finite at iteration 2']
    assert run.as_json()['training']['loss']['value'] == [2.0, None]


def test_nothing_there_is_said(tmp_path):
    with pytest.raises(UserError, match='no folder of a run at'):
        read_run(tmp_path / 'absent')
    with pytest.raises(UserError, match='LocalVisBackend'):
        read_run(tmp_path)
    write(tmp_path, '1', tail='{"loss"')
    with pytest.raises(UserError, match='no line that can be read'):
        read_run(tmp_path)


def test_names_tell_runs_apart():
    assert names(['a/b']) == ['b']
    assert names(['x/one', 'x/two']) == ['one', 'two']
    assert names(['x/one/train', 'x/two/train']) == ['one/train', 'two/train']
    assert names(['x/one', 'x/one']) == ['one', 'one']


def test_panels(tmp_path):
    write(
        tmp_path,
        '1',
        step(1, loss=2.0, loss_cls=1.0, lr=0.1, grad_norm=3.0, time=0.5, odd=7.0),
        step(2, loss=1.0, loss_cls=0.5, lr=0.2, grad_norm=2.0, time=0.5, odd=8.0),
        {'coco/bbox_mAP': 0.25, 'mIoU': 40.0, 'step': 2},
    )
    run = read_run(tmp_path)
    one = {ax.get_title(loc='left'): ax for ax in draw([run]).axes}
    assert set(one) == {
        'loss',
        'metrics',
        'metrics, %',
        'learning rate',
        'norm of the gradient',
        'seconds for an iteration',
        'odd',
    }
    lines = {line.get_label(): line for line in one['loss'].get_lines()}
    assert list(lines['loss_cls'].get_ydata()) == [1.0, 0.5]
    other = run._replace(name='other')
    many = {ax.get_title(loc='left'): ax for ax in draw([run, other]).axes}
    assert set(many) >= {'loss', 'loss_cls', 'learning rate', 'mIoU'}
    both = [line.get_label() for line in many['mIoU'].get_lines()]
    assert both == [tmp_path.name, 'other']


def test_the_command(tmp_path, capsys):
    for name in ('one', 'two'):
        write(tmp_path / name, '1', step(1, loss=2.0), tail='{"lo')
    out = tmp_path / 'out'
    folders = [str(tmp_path / name) for name in ('one', 'two')]
    cli.analyse(['curves', *folders, '--out', str(out)])
    text = capsys.readouterr().out
    assert 'two: 1/vis_data/scalars.json: line 2 left out' in text
    content = json.loads((out / 'curves.json').read_text())
    assert [run['name'] for run in content['runs']] == ['one', 'two']
    assert (out / 'curves.png').read_bytes().startswith(b'\x89PNG')
    with pytest.raises(SystemExit, match='mmssm-analyse: there is no folder'):
        cli.analyse(['curves', str(tmp_path / 'absent'), '--out', str(out)])
