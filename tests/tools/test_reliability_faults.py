"""Trainings are killed and resumed; what is broken or goes on elsewhere is found."""

import json

import pytest
import torch

from tools.reliability import faults, killed
from tools.reliability.check import Clock


def test_one_kill_in_a_process_of_its_own():
    outcome = faults._kill('saving', Clock(60), 1, most=1)
    assert (outcome.tried, outcome.failures) == (1, [])


def test_a_script_that_fails(monkeypatch):
    outcome = faults._kill('saving', Clock(60), 'no number', most=1)
    assert outcome.tried == 0
    assert "invalid literal for int() with base 10: 'no number'" in outcome.failures[0]


def test_checkpoints_that_are_broken(tmp_path):
    torch.save({'state_dict': {'a': torch.ones(999)}}, tmp_path / 'iter_2.pth')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_2.pth'))
    assert killed.broken(tmp_path) == []
    content = (tmp_path / 'iter_2.pth').read_bytes()
    (tmp_path / 'iter_4.pth').write_bytes(content[:-99])
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_4.pth'))
    first, second = killed.broken(tmp_path)
    assert first.startswith('iter_4.pth: ')
    assert second.startswith('last_checkpoint names ')


class Resumed:
    """Writes what a training would have written."""

    exitcode = 0

    def __init__(self, folder, steps):
        self.folder, self.steps = folder, steps

    def join(self):
        logs = self.folder / 'b/vis_data'
        logs.mkdir(parents=True)
        lines = [json.dumps({'step': s, 'loss': s / 2}) for s in self.steps]
        (logs / 'scalars.json').write_text('\n'.join(lines))
        for step in (6, 8):
            weights = {'state_dict': {'a': torch.ones(1)}}
            torch.save(weights, self.folder / f'iter_{step}.pth')
        (self.folder / 'last_checkpoint').write_text(str(self.folder / 'iter_8.pth'))


class Trainings:
    def __init__(self, folder, steps):
        self.folder, self.steps = folder, steps
        self.losses = {step: step / 2 for step in range(1, 9)}
        self.weights = {'a': torch.ones(1)}

    def start(self, name, *flags):
        assert flags == ('--resume',)
        return Resumed(self.folder / name, self.steps)

    def last(self, name):
        return torch.load(self.folder / name / 'iter_8.pth')['state_dict']


def interrupted(folder):
    logs = folder / 'cut/a/vis_data'
    logs.mkdir(parents=True)
    (logs / 'scalars.json').write_text('{"step": 1, "loss": 0.5}\n{"step"')
    torch.save({'state_dict': {}}, folder / 'cut/iter_4.pth')
    return folder / 'cut'


def test_a_training_that_goes_on(tmp_path):
    interrupted(tmp_path)
    assert killed.resume(Trainings(tmp_path, range(5, 9)), 'cut') == []


@pytest.mark.parametrize('steps', [range(1, 9), range(6, 9), range(5, 8)])
def test_a_training_that_goes_on_elsewhere(tmp_path, steps):
    interrupted(tmp_path)
    (fault,) = killed.resume(Trainings(tmp_path, steps), 'cut')
    assert fault == f'iterations {list(steps)} after 4 that were saved'


def test_a_training_that_is_another(tmp_path):
    work_dir = interrupted(tmp_path)
    (work_dir / '.iter_6.pth.x.tmp').touch()
    trainings = Trainings(tmp_path, range(5, 9))
    trainings.losses[7] = 9.0
    trainings.weights['a'] = torch.zeros(1)
    left, run, weights = killed.resume(trainings, 'cut')
    assert left == '.iter_6.pth.x.tmp is left over'
    assert run.startswith('losses {5: 2.5,')
    assert weights == 'other weights than the undisturbed training'
