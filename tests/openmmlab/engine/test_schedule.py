"""What a schedule does to a run is said before it, and can be made to fit."""

import math

import pytest
from mmengine.config import Config
from mmengine.runner import Runner
from openmmlab.engine import toy

from mmssm.openmmlab.engine import UserError, schedule
from mmssm.openmmlab.engine.schedule import Length, describe, fit_schedule, simulate

WARM_UP = dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000)
STEPS = dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11])
POLY = dict(type='PolyLR', power=1.0, by_epoch=False, begin=1000, end=100_000)
COSINE = dict(
    type='CosineAnnealingLR', by_epoch=False, begin=40, end=650, T_max=610, eta_min=0
)
COCO = Length(12 * 7330, 7330, 12)


def test_a_schedule_that_fits():
    line, concerns = describe([WARM_UP, STEPS], 1e-4, COCO)
    assert line == (
        'schedule: 87960 iterations (12 passes over the data); warm-up 1000 (1.14 % of '
        'the run); learning rate 1e-07 at first, at most 0.0001, 1e-06 at last '
        '(optimizer: 0.0001)'
    )
    assert concerns == []
    assert describe([], 0.1, Length(10, 10))[1] == []


def test_a_warm_up_longer_than_the_run():
    line, concerns = describe([WARM_UP], 1e-4, Length(180, 15, 12))
    assert 'at most 1.8e-05' in line
    assert len(concerns) == 1
    assert 'the warm-up of 1000 iterations is longer than the run of 180' in concerns[0]
    assert 'never leaves 18 % of 0.0001' in concerns[0]
    assert concerns[-1].endswith('makes it fit the run')


@pytest.mark.parametrize(
    'scheduler, length, words',
    [
        (
            STEPS,
            Length(60, 15, 4),
            'milestones [8, 11] (epochs) lie beyond the run of 4',
        ),
        (
            STEPS,
            Length(150, 15, 10),
            'milestones [11] (epochs) lie beyond the run of 10',
        ),
        (STEPS, Length(180, 15), 'counts epochs (by_epoch=True), which a loop of iter'),
        (POLY, Length(5000, 50), 'is to end at iteration 100000, but the run has 5000'),
        (POLY, Length(900, 50), 'begins at iteration 1000, after the end of the run'),
        (
            dict(COSINE, begin=0, end=100, T_max=100),
            Length(200, 9),
            'below 0.0001 from it',
        ),
    ],
)
def test_what_lies_beyond_the_run(scheduler, length, words):
    (concern,) = describe([scheduler], 0.1, length)[1]
    assert words in concern


@pytest.mark.parametrize('loop', toy.LOOPS)
def test_the_simulation_is_what_mmengine_does(tmp_path, loop, monkeypatch):
    monkeypatch.syspath_prepend(toy.ROOT / 'tests')
    cfg = Config.fromfile(toy.write_config(tmp_path, loop))
    cfg.work_dir = str(tmp_path / 'work')
    cfg.custom_hooks = []
    cfg.param_scheduler = [
        dict(WARM_UP, end=4),
        dict(STEPS, end=3, milestones=[1, 2]),
        dict(COSINE, begin=4, end=15, T_max=11),
    ]
    runner = Runner.from_cfg(cfg)
    planned = simulate(cfg.param_scheduler, 1e-3, schedule._length(runner))
    runner.train()
    rates = runner.message_hub.log_scalars['train/lr'].data[0]
    assert len(rates) == 18
    assert math.isclose(planned.first, rates[0])
    assert math.isclose(planned.highest, max(rates))
    assert math.isclose(planned.last, rates[-1], abs_tol=1e-12)


def test_fitting_leaves_what_fits():
    assert fit_schedule([dict(WARM_UP), dict(STEPS)], COCO) == [WARM_UP, STEPS]
    assert fit_schedule([dict(COSINE)], Length(650, 9)) == [COSINE]


def test_fitting_a_short_run():
    warm_up, steps = fit_schedule([WARM_UP, STEPS], Length(180, 90, 2))
    assert warm_up == dict(WARM_UP, end=18)
    assert steps == dict(STEPS, by_epoch=False, end=180, milestones=[120, 165])
    line, concerns = describe([warm_up, steps], 1e-4, Length(180, 90, 2))
    assert 'warm-up 18 (10 % of the run)' in line
    assert 'at most 0.0001, 1e-06 at last' in line
    assert concerns == []


def test_fitting_what_follows_the_warm_up():
    warm_up, poly = fit_schedule([WARM_UP, POLY], Length(500, 50))
    assert warm_up['end'] == poly['begin'] == 50
    assert poly['end'] == 500
    course = simulate([warm_up, poly], 1.0, Length(500, 50))
    assert course.highest > 0.99
    assert course.last < 0.01


def test_fitting_a_longer_run():
    warm_up = dict(WARM_UP, end=40)
    warm_up, cosine = fit_schedule([warm_up, COSINE], Length(6500, 9))
    assert warm_up['end'] == cosine['begin'] == 40
    assert (cosine['end'], cosine['T_max']) == (6500, 6460)


def test_fitting_milestones_without_an_end():
    steps = dict(type='MultiStepLR', milestones=[8, 11])
    (steps,) = fit_schedule([steps], Length(40, 10, 4))
    assert steps['milestones'] == [26, 36]
    assert steps['by_epoch'] is False


def test_fitting_epochs_in_a_loop_of_iterations():
    (steps,) = fit_schedule([STEPS], Length(120, 10))
    assert steps['milestones'] == [80, 110]
    assert describe([steps], 0.1, Length(120, 10))[1] == []


def test_what_cannot_be_fitted():
    plateau = dict(type='ReduceOnPlateauLR', monitor='loss')
    with pytest.raises(UserError, match='does not know ReduceOnPlateauLR'):
        fit_schedule([plateau], Length(10, 5, 2))
    assert describe([plateau], 0.1, Length(10, 5, 2))[1] == []


@pytest.mark.parametrize(
    'planned, words',
    [(None, 'no param_scheduler to fit'), (dict(head=[WARM_UP]), 'several optimizers')],
)
def test_configs_without_one_schedule(tmp_path, monkeypatch, planned, words):
    runner = prepared(tmp_path, monkeypatch, planned)
    with pytest.raises(UserError, match=words):
        schedule.prepare_schedule(runner, fit=True)


def prepared(tmp_path, monkeypatch, planned):
    monkeypatch.syspath_prepend(toy.ROOT / 'tests')
    cfg = Config.fromfile(toy.write_config(tmp_path, 'epochs'))
    cfg.work_dir = str(tmp_path / 'work')
    cfg.custom_hooks = []
    cfg.experiment_name = tmp_path.name  # a log of its own
    cfg.param_scheduler = planned
    return Runner.from_cfg(cfg)


def test_a_run_with_a_fitted_schedule(tmp_path, monkeypatch):
    runner = prepared(tmp_path, monkeypatch, [WARM_UP, STEPS])
    schedule.prepare_schedule(runner, fit=True)
    log = next((tmp_path / 'work').rglob('*.log')).read_text()
    assert 'schedule: 18 iterations (3 passes over the data); warm-up 2' in log
    runner.train()
    rates = runner.message_hub.log_scalars['train/lr'].data[0]
    assert max(rates) == pytest.approx(1e-3)
    assert rates[-1] == pytest.approx(1e-5)
    saved = Config.fromfile(next((tmp_path / 'work').rglob('epochs0.py')))
    assert saved.param_scheduler[1].milestones == [12, 16]


def test_a_run_with_a_schedule_that_does_not_fit(tmp_path, monkeypatch):
    runner = prepared(tmp_path, monkeypatch, WARM_UP)
    schedule.prepare_schedule(runner)
    log = next((tmp_path / 'work').rglob('*.log')).read_text()
    assert 'WARNING - the warm-up of 1000 iterations is longer than the run' in log
    assert runner.cfg.param_scheduler == WARM_UP
