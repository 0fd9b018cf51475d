"""The doctor names what is wrong, and how to mend it, whatever is broken."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mmssm.openmmlab import doctor
from mmssm.openmmlab.doctor.conditions import OLDEST_TORCH, unusable_torch
from mmssm.openmmlab.doctor.facts import PROBES, Facts, Probe, run_probe
from mmssm.openmmlab.doctor.traps import PINS, TRAPS, judge

ROOT = Path(__file__).resolve().parents[2]
GPU = {
    'name': 'H200',
    'gigabytes': 139.0,
    'capability': '9.0',
    'bfloat16': True,
    'error': None,
}
TORCH = {'version': '2.13.0', 'cuda': None, 'threads': 2, 'gpus': []}
HEALTHY = Facts(
    python='3.11.7',
    executable='python',
    system='Linux',
    cpus=2,
    nvidia_driver=False,
    installed={
        'torch': '2.13.0',
        'numpy': '2.2.6',
        'triton': '3.9.0',
        'mmssm': '0.1.0',
        'opencv-python': '4.12.0.88',
        'opencv-python-headless': '4.12.0.88',
        'setuptools': '81.0.0',
        'onedl-mmengine': '0.10.12',
        'onedl-mmcv': '2.3.6',
        'onedl-mmdetection': '3.5.1',
        'onedl-mmsegmentation': '1.4.2',
    },
    compilers={'g++': 'g++ 12.2.0'},
    probes={
        **{name: Probe({'version': '1.0'}) for name in PROBES},
        'torch': Probe(TORCH),
        'mmcv.ops': Probe({'cuda': 'not available'}),
        'backends': Probe({'scan': [['fast', 'no GPU'], ['naive', None]]}),
        'torchvision': Probe({}, "ModuleNotFoundError: No module named 'torchvision'"),
    },
)


ORIGINAL = {
    'torch': '2.13.0',
    'mmengine': '0.10.7',
    'mmcv': '2.1.0',
    'mmdet': '3.3.0',
    'mmsegmentation': '1.2.2',
    'ftfy': '6.3.1',
    'regex': '2026.11.15',
    'mmssm': '0.1.0',
}


ABSENT = {
    name: Probe({}, f"ModuleNotFoundError: No module named '{name.split('.')[0]}'")
    for name in ('cv2', 'mmengine', 'mmcv', 'mmcv.ops', 'mmdet', 'mmseg', 'pycocotools')
}
TORCH_ONLY = replace(
    HEALTHY,
    installed={'torch': '2.13.0', 'numpy': '2.2.6', 'mmssm': '0.1.0'},
    probes={**HEALTHY.probes, **ABSENT},
)


def probed(name: str, probe: Probe, facts: Facts = HEALTHY) -> Facts:
    return replace(facts, probes={**facts.probes, name: probe})


def failing(name: str, error: str) -> Facts:
    return probed(name, Probe({}, error))


def missing(*names: str) -> Facts:
    facts = HEALTHY
    for name in names:
        error = f"ModuleNotFoundError: No module named '{name}'"
        facts = probed(name, Probe({}, error), facts)
    return facts


def installed(changes: dict[str, str], base: dict[str, str] | None = None) -> Facts:
    return replace(HEALTHY, installed={**(base or HEALTHY.installed), **changes})


def torch_with(changes: dict[str, object], facts: Facts = HEALTHY) -> Facts:
    return probed('torch', Probe({**TORCH, **changes}), facts)


def found(facts: Facts, level: str) -> list[str]:
    return [f.title for f in judge(facts) if f.level == level and f.detail is not None]


def test_nothing_is_wrong_with_a_healthy_environment():
    assert found(HEALTHY, 'fail') == []
    assert found(HEALTHY, 'warn') == []


def test_torch_alone_is_healthy():
    assert found(TORCH_ONLY, 'fail') == []
    assert found(TORCH_ONLY, 'warn') == []
    (note,) = [f for f in judge(TORCH_ONLY) if f.detail and f.level == 'note']
    assert note.title.startswith('OpenMMLab, which trains and tests detectors')
    assert note.fix == "to add it: python -m pip install 'mmssm[onedl]'"
    text = doctor.as_text(TORCH_ONLY, judge(TORCH_ONLY))
    assert text.endswith('create_model is possible here.')


def test_torch_without_numpy_is_healthy_too():
    bridge = torch_with({'numpy_bridge': 'Numpy is not available'}, TORCH_ONLY)
    facts = probed('numpy', missing('numpy').probes['numpy'], bridge)
    assert found(facts, 'fail') == found(facts, 'warn') == []
    assert len(found(facts, 'note')) == 2


@pytest.mark.parametrize(
    'change, words',
    [
        (missing('torch'), 'torch is missing'),
        (failing('backends', "ImportError: cannot import name 'x'"), 'own operators'),
        (failing('numpy', 'ImportError: broken'), 'numpy is missing or broken'),
        (torch_with({'numpy_bridge': 'Numpy is not available'}), 'another numpy'),
        (torch_with({'gpus': [{**GPU, 'error': 'no kernel image'}]}), 'on a GPU'),
    ],
)
def test_what_breaks_torch_alone_is_named(change: Facts, words: str):
    (title,) = found(
        replace(
            change, probes={**change.probes, **ABSENT}, installed=TORCH_ONLY.installed
        ),
        'fail',
    )
    assert words in title


def test_the_oldest_torch_is_that_of_the_package():
    oldest = '.'.join(map(str, OLDEST_TORCH))
    assert f"'torch>={oldest}'" in (ROOT / 'setup.py').read_text()
    for version in (oldest, f'{oldest}.0', f'{oldest}.0+cpu'):
        assert unusable_torch(installed({'torch': version})) is None
    assert 'is older than' in unusable_torch(installed({'torch': '2.5.9'}))


FATAL = [
    (missing('torch'), 'torch is missing'),
    (installed({'torch': '2.3.1'}), 'torch is missing, too old'),
    (missing('numpy'), 'numpy is missing'),
    (installed({'mmengine': '0.10.7'}), 'both OpenMMLab forks'),
    (installed({'mmcv-lite': '2.1.0'}), 'both OpenMMLab forks'),
    (missing('mmengine'), 'mmengine is missing'),
    (missing('mmcv'), 'mmcv is missing'),
    (failing('mmcv.ops', "No module named 'mmcv._ext'"), 'compiled operators'),
    (failing('mmcv.ops', '_ext.so: undefined symbol: _ZN3c10'), 'compiled operators'),
    (failing('pycocotools', 'numpy.dtype size changed, may'), 'another numpy'),
    (probed('cv2', Probe({}, None, 'compiled using NumPy 1.x')), 'another numpy'),
    (torch_with({'numpy_bridge': 'Numpy is not available'}), 'another numpy'),
    (failing('cv2', 'libGL.so.1: cannot open shared object'), 'OpenCV does not load'),
    (failing('torchvision', 'operator torchvision::nms'), 'torchvision does not fit'),
    (missing('mmdet', 'mmseg'), 'neither detection nor segmentation'),
    (failing('mmdet', 'MMCV==2.2.0 is used but'), 'mmdet does not import'),
    (failing('mmseg', "cannot import name 'x'"), 'mmseg does not import'),
    (torch_with({'gpus': [GPU]}), 'mmcv cannot use the GPU'),
    (
        torch_with(
            {'gpus': [{**GPU, 'error': 'no kernel image is available'}]},
            probed('mmcv.ops', Probe({'cuda': '13.0'})),
        ),
        'cannot compute on a GPU',
    ),
]


@pytest.mark.parametrize('facts, words', FATAL, ids=[words for _, words in FATAL])
def test_what_makes_training_impossible_is_named_alone(facts: Facts, words: str):
    titles = found(facts, 'fail')
    assert len(titles) == 1
    assert words in titles[0]


@pytest.mark.parametrize('lacking', ['ftfy', 'regex'])
def test_the_text_packages_that_mmsegmentation_forgets(lacking: str):
    without = {name: v for name, v in ORIGINAL.items() if name != lacking}
    titles = found(installed({}, without), 'fail')
    assert titles == ['mmsegmentation needs ftfy and regex without requiring them']
    assert found(installed({}, ORIGINAL), 'fail') == []


WARNINGS = [
    (installed({}, ORIGINAL), 'cannot load its own checkpoints'),
    (missing('mmdet'), 'detection configs'),
    (missing('mmseg'), 'segmentation configs'),
    (
        replace(
            missing('pkg_resources'),
            installed={**HEALTHY.installed, 'openmim': '0.3.9', 'setuptools': '82.0.1'},
        ),
        'pkg_resources is gone',
    ),
    (replace(HEALTHY, nvidia_driver=True), 'NVIDIA driver'),
    (installed({'opencv-python': '5.0.0.93'}), 'two versions of OpenCV'),
    (installed({'numpy': '2.4.6'}), 'numpy 2.4'),
    (probed('mmssm', Probe({'missing': ['configs']})), 'do not find mmssm'),
]


@pytest.mark.parametrize('facts, words', WARNINGS, ids=[words for _, words in WARNINGS])
def test_what_breaks_in_particular_is_a_warning(facts: Facts, words: str):
    titles = found(facts, 'warn')
    assert len(titles) == 1
    assert words in titles[0]
    assert found(facts, 'fail') == []


@pytest.mark.parametrize('count', range(1, len(PROBES) + 1))
def test_a_package_and_all_above_it_broken_is_never_fine(count: int):
    order = ('mmseg', 'mmdet', 'mmcv.ops', 'mmcv', 'mmengine', 'cv2', 'numpy', 'torch')
    facts = HEALTHY
    for name in order[:count]:
        facts = probed(name, Probe({}, 'ImportError: broken'), facts)
    assert found(facts, 'fail')


def test_every_fix_names_pip_of_this_python_and_the_stack_found():
    for facts, mmcv in ((HEALTHY, 'onedl-mmcv==2.3.6'), (ORIGINAL, ' mmcv==2.1.0')):
        facts = facts if isinstance(facts, Facts) else installed({}, facts)
        fixes = {finding.title: finding.fix for finding in judge(facts)}
        fix = fixes["mmcv's compiled operators are missing or broken"]
        assert fix.startswith('python -m pip')
        assert fix.endswith(mmcv)


def test_the_pins_are_those_of_the_requirements():
    files = {path.stem: path.read_text() for path in ROOT.glob('requirements/*.txt')}
    for stack, pins in PINS.items():
        lines = set(files[stack].split('\n'))
        assert {word.strip("'") for word in pins.split()} <= lines
    pinned = {
        word for trap in TRAPS for word in trap.fix.split() if '==' in word.strip(',;')
    }
    everything = set('\n'.join(files.values()).split('\n'))
    assert {word.strip(',;') for word in pinned} <= everything


def test_a_probe_survives_what_it_probes():
    assert run_probe('result = {"a": 1}').result == {'a': 1}
    assert run_probe('print("noise")\nresult = {"a": 1}').result == {'a': 1}
    assert run_probe('import nowhere').is_missing('nowhere')
    assert 'signal 6' in run_probe('import os; os.abort()').error
    assert run_probe('raise ValueError("told")').error == 'ValueError: told'
    noisy = run_probe('import sys; print("NumPy 1.x", file=sys.stderr); result = {}')
    assert 'NumPy 1.x' in noisy.messages


@pytest.mark.parametrize('facts, status', [(HEALTHY, 0), (missing('torch'), 1)])
def test_the_exit_status_and_the_two_forms_of_the_report(
    facts: Facts,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(doctor, 'gather', lambda: facts)
    assert doctor.main([]) == status
    text = capsys.readouterr().out
    assert 'fast cannot: no GPU' in text
    assert ('Training is possible' in text) == (status == 0)
    assert text.count('[FAIL]') == status
    assert doctor.main(['--json']) == status
    report = json.loads(capsys.readouterr().out)
    assert len(report['traps']) == len(TRAPS)
    assert report['facts']['installed'] == dict(facts.installed)


def test_the_doctor_runs_where_nothing_is_installed():
    code = (
        f'import sys; sys.path.insert(0, {str(ROOT)!r}); import mmssm.openmmlab.doctor'
    )
    bare = [sys.executable, '-I', '-S', '-c', code]
    done = subprocess.run(bare, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_this_environment_can_train():
    done = subprocess.run(
        [sys.executable, '-m', 'mmssm.openmmlab.doctor', '--json'],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    report = json.loads(done.stdout)
    failed = [t for t in report['traps'] if t['level'] == 'fail' and t['detail']]
    assert failed == []
    assert done.returncode == 0
    assert report['facts']['probes']['backends']['result']
