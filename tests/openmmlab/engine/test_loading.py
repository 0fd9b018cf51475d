"""Checkpoints are found, read safely, and compared with the model before loading."""

import os
import pickle
from types import SimpleNamespace
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer, MMLogger
from torch import nn

from mmssm.openmmlab.engine import UserError, loading
from mmssm.openmmlab.engine.loading import CheckpointFitHook
from mmssm.openmmlab.engine.resuming import latest_checkpoint

loading.use_safe_loading()


def save(path, age=0):
    torch.save(dict(state_dict={'w': torch.ones(2)}), path)
    moment = path.stat().st_mtime - age
    os.utime(path, (moment, moment))
    return path


def cut(path):
    moment = path.stat().st_mtime
    path.write_bytes(path.read_bytes()[:-20])
    os.utime(path, (moment, moment))


def test_noted_checkpoint_comes_first_then_the_newest(tmp_path):
    assert latest_checkpoint(tmp_path) == (None, [])
    noted = save(tmp_path / 'epoch_3.pth', age=20)
    newest = save(tmp_path / 'epoch_2.pth')
    middle = save(tmp_path / 'epoch_10.pth', age=10)
    save(tmp_path / 'best_epoch_9.pth')
    note = tmp_path / 'last_checkpoint'
    note.write_text(str(noted))
    assert latest_checkpoint(tmp_path) == (str(noted), [])
    cut(noted)
    assert latest_checkpoint(tmp_path) == (str(newest), [str(noted)])
    note.write_text('')
    assert latest_checkpoint(tmp_path) == (str(newest), [])
    cut(newest)
    assert latest_checkpoint(tmp_path) == (str(middle), [str(newest)])


def test_log_of_mmengine_survives(tmp_path):
    history = HistoryBuffer([1.0, 2.5], [1, 1])
    content = dict(log=history, number=np.float64(3), flag=np.bool_(True))
    torch.save(content, tmp_path / 'a.pth')
    read = loading.read_checkpoint(tmp_path / 'a.pth')
    assert read['log'].mean() == 1.75
    assert read['log'].statistics('max') == 2.5
    assert (read['number'], read['flag']) == (3, True)


def test_what_a_signal_saved_is_found_without_a_note(tmp_path):
    for name in ('iter_4.pth', 'stopped_iter_9.pth'):
        torch.save({}, tmp_path / name)
    os.utime(tmp_path / 'iter_4.pth', (1, 1))
    assert latest_checkpoint(tmp_path) == (str(tmp_path / 'stopped_iter_9.pth'), [])


def test_log_of_the_other_numpy(tmp_path):
    ours, theirs = 'numpy._core', 'numpy.core'
    if int(np.__version__.split('.')[0]) < 2:
        ours, theirs = theirs, ours
    torch.save(dict(number=np.float64(3)), tmp_path / 'a.pth')
    with ZipFile(tmp_path / 'a.pth') as a, ZipFile(tmp_path / 'b.pth', 'w') as b:
        for name in a.namelist():
            b.writestr(name, a.read(name).replace(ours.encode(), theirs.encode()))
    named = (tmp_path / 'b.pth').read_bytes()
    assert theirs.encode() in named
    assert ours.encode() not in named
    assert loading.read_checkpoint(tmp_path / 'b.pth')['number'] == 3


class Getattr:
    def __reduce__(self):
        return getattr, (nn.Module, '__init__')


class GetattrOfAnArray:
    """An owner and a name that are allowed, but not together."""

    def __reduce__(self):
        return getattr, (np.ndarray, 'min')


def test_methods_of_nothing_but_the_log(tmp_path):
    torch.save(dict(a=GetattrOfAnArray()), tmp_path / 'a.pth')
    with pytest.raises(UserError, match='a.pth'):
        loading.read_checkpoint(tmp_path / 'a.pth')


class Run:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize('evil', [Getattr(), Run('made')])
def test_objects_that_run_code_are_refused(tmp_path, monkeypatch, evil):
    monkeypatch.chdir(tmp_path)
    torch.save(dict(state_dict={}, evil=evil), 'a.pth')
    with pytest.raises(UserError, match='a.pth'):
        loading.read_checkpoint('a.pth')
    assert not os.path.exists('made')


def test_refusal_names_the_class(tmp_path):
    torch.save(dict(w=torch.ones(1), args=SimpleNamespace()), tmp_path / 'a.pth')
    with pytest.raises(UserError, match='types.SimpleNamespace'):
        loading.read_checkpoint(tmp_path / 'a.pth')


@pytest.mark.parametrize('size', [0, 1, 100, 600, -1])
def test_cut_files(tmp_path, size):
    path = tmp_path / 'a.pth'
    torch.save(dict(w=torch.ones(500)), path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match=r'a\.pth is not a complete checkpoint'):
        loading.read_checkpoint(path)


def test_other_files(tmp_path):
    path = tmp_path / 'a.pth'
    with pytest.raises(UserError, match='there is no checkpoint at'):
        loading.read_checkpoint(path)
    path.write_text('hello')
    with pytest.raises(UserError, match='not a complete checkpoint'):
        loading.read_checkpoint(path)
    path.write_bytes(pickle.dumps([1]))
    with pytest.raises(UserError, match='not a complete checkpoint'):
        loading.read_checkpoint(path)
    torch.save([torch.ones(1)], path)
    with pytest.raises(UserError, match='holds a list'):
        loading.read_checkpoint(path)


def fit(weights, strict=True, **options):
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    logger = MMLogger.get_instance('fit')
    cfg = Config(dict(load_from='a.pth'))
    runner = SimpleNamespace(model=model, logger=logger, cfg=cfg)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    checkpoint = dict(state_dict=weights(state))
    CheckpointFitHook(strict, **options).after_load_checkpoint(runner, checkpoint)


def without(*names, **others):
    return lambda s: {k: v for k, v in s.items() if k not in names} | others


def test_fitting_checkpoints_pass():
    fit(lambda state: state)
    fit(lambda state: {f'module.{name}': value for name, value in state.items()})
    fit(without('1.num_batches_tracked'))


@pytest.mark.parametrize(
    ('weights', 'words'),
    [
        (without('0.weight'), r'missing \(1\):\s+0\.weight'),
        (without(new=torch.ones(1)), r'unexpected \(1\):\s+new'),
        (
            lambda s: s | {'0.bias': torch.ones(4)},
            r'mismatched \(1\):\s+0\.bias \(4,\).*\(3,\)',
        ),
    ],
)
def test_differing_keys_are_named(weights, words):
    with pytest.raises(UserError, match=words):
        fit(weights)
    fit(weights, strict=False)


def test_the_advice_is_that_of_the_command():
    with pytest.raises(UserError, match=r'or --lenient-keys to load what fits'):
        fit(without('0.weight'))
    advice = loading.START_FROM
    with pytest.raises(UserError, match=r'load_from=FILE, without --resume, to load'):
        fit(without('0.weight'), advice=advice)


def test_nothing_in_common_is_never_lenient():
    with pytest.raises(UserError, match='0 of 7 entries fit'):
        fit(lambda state: dict(other=torch.ones(1)), strict=False)


def test_official_checkpoint_asks_for_the_converter():
    name = 'backbone.layers.0.blocks.0.self_attention.state_fusion.alpha'
    with pytest.raises(UserError, match=r'spatial_mamba.*official_to_mmssm\.py'):
        fit(lambda state: {name: torch.ones(3)}, strict=False)


@pytest.mark.parametrize('zipped', [True, False])
def test_damage_anywhere_is_told(tmp_path, zipped):
    rng = np.random.default_rng(0)
    log = dict(a=HistoryBuffer([1.0, 2.5], [1, 1]), n=np.float64(3))
    content = dict(meta=dict(seed=1), state_dict={'w': torch.ones(9)}, message_hub=log)
    path = tmp_path / 'a.pth'
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    told = []
    for _ in range(300):
        damaged = bytearray(whole)
        for place in rng.integers(len(whole), size=rng.choice([1, 3, 20])):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            loading.read_checkpoint(path)
        except UserError as error:
            told.append(str(error))
    assert len(told) > 100
    assert all(len(text.splitlines()) == 1 for text in told)
