"""The set-up says what is missing, resumes, and never calls half a job done."""

import os
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

import pytest

from tools.environment import bootstrap, machine

ROOT = Path(__file__).resolve().parents[2]
Usage = namedtuple('Usage', 'free')


def nothing(name: str) -> None:
    """shutil.which and find_spec of a machine that has nothing."""


def anything(name: str) -> str:
    """shutil.which of a machine that has everything."""
    return f'/usr/bin/{name}'


# What a machine may lack.


def test_this_machine_has_what_the_set_up_needs(tmp_path: Path):
    problems = machine.problems(tmp_path / '.venv')
    assert [problem for problem in problems if ' GB are free' not in problem] == []


@pytest.mark.parametrize(
    'problem, words',
    [
        (machine.check_system('Darwin'), 'Darwin'),
        (machine.check_python((3, 9, 18)), 'PYTHON=python3.11'),
        (machine.check_python((3, 14, 0)), '3.10 to 3.13'),
        (machine.check_venv_modules(nothing), 'apt-get install python3-venv'),
        (machine.check_headers(Path('/nowhere')), 'python3-dev'),
        (machine.check_compiler({}), 'apt-get install g++'),
        (machine.check_compiler({'CXX': 'false'}), 'does not compile'),
        (machine.check_cuda_compiler(True, nothing), 'nvcc'),
        (
            machine.check_disk(Path('/'), 4.5, lambda folder: Usage(2.1e9)),
            '2.1 GB are free in /; the set-up needs 4.5 GB',
        ),
    ],
)
def test_what_is_missing_is_named_with_its_fix(problem: str | None, words: str):
    assert problem is not None
    assert words in problem


def test_what_is_there_is_no_problem():
    assert machine.check_system('Linux') is None
    assert machine.check_python((3, 10, 0)) is None
    assert machine.check_python((3, 13, 9)) is None
    assert machine.check_cuda_compiler(True, anything) is None
    assert machine.check_cuda_compiler(False, nothing) is None
    assert machine.check_disk(Path('/'), 4.5, lambda folder: Usage(4.6e9)) is None


def test_clang_serves_where_gcc_is_missing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv('CXX', raising=False)
    clang = {'clang', 'clang++'}
    found = machine.compilers(lambda name: name if name in clang else None)
    assert found == {'CC': 'clang', 'CXX': 'clang++'}
    assert machine.compilers(nothing) == {}
    monkeypatch.setenv('CXX', 'g++-12')
    assert machine.compilers(anything) == {'CXX': 'g++-12'}


OLD_PYTHON = f"""#!/bin/sh
[ "$1" = --version ] && echo 'Python 3.9.18' && exit
exec {sys.executable} -c 'import sys; sys.version_info = (3, 9); exec(sys.argv[1])' "$2"
"""


@pytest.mark.parametrize(
    'python, words', [(OLD_PYTHON, 'Python 3.9.18 is too old'), ('', 'There is no')]
)
def test_make_names_a_python_that_does_not_do(tmp_path: Path, python: str, words: str):
    path = tmp_path / 'python'
    if python:
        path.write_text(python)
        path.chmod(0o755)
    command = ['make', '-C', str(ROOT), 'setup', f'PYTHON={path}']
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert words in done.stdout
    assert 'make PYTHON=' in done.stdout


# A set-up of stand-in steps in a project of its own.


def script(code: str, title: str = 'step') -> bootstrap.Step:
    return bootstrap.Step(title, [sys.executable, '-c', code])


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / 'requirements').mkdir()
    for path in (ROOT / 'requirements').iterdir():
        (tmp_path / 'requirements' / path.name).write_text(path.read_text())
    (tmp_path / 'setup.py').touch()
    monkeypatch.setattr(bootstrap, 'ROOT', tmp_path)
    monkeypatch.setattr(bootstrap, 'problems', lambda venv: [])
    monkeypatch.setattr(bootstrap, 'is_healthy', lambda venv: True)
    return tmp_path


def use_steps(monkeypatch: pytest.MonkeyPatch, *steps: bootstrap.Step) -> None:
    monkeypatch.setattr(bootstrap, 'steps', lambda stack, torch, venv: list(steps))


def test_a_finished_set_up_is_not_repeated(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    use_steps(monkeypatch, script('open("ran", "a").write("x")'))
    assert bootstrap.main([]) == 0
    assert '[1/1] step' in capsys.readouterr().out
    assert bootstrap.main([]) == 0
    assert capsys.readouterr().out == ''
    assert (project / 'ran').read_text() == 'x'


@pytest.mark.parametrize('changed', ['onedl', 'constraints', 'dev', 'build', 'torch'])
def test_a_changed_requirement_sets_up_again(
    project: Path, monkeypatch: pytest.MonkeyPatch, changed: str
):
    use_steps(monkeypatch, script('open("ran", "a").write("x")'))
    assert bootstrap.main(['--torch', 'torch==2.13.0']) == 0
    with (project / f'requirements/{changed}.txt').open('a') as file:
        file.write('another==1\n')
    assert bootstrap.main(['--torch', 'torch==2.13.0']) == 0
    assert (project / 'ran').read_text() == 'xx'
    assert bootstrap.main(['--torch', 'torch==2.12.0']) == 0
    assert (project / 'ran').read_text() == 'xxx'


def test_a_failed_step_is_told_and_the_next_set_up_goes_on(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    lines = 'print(*(f"line {i}" for i in range(40)), sep="\\n")'
    broken = f'{lines}; raise SystemExit("No space left on device")'
    use_steps(monkeypatch, script('pass'), script(broken, 'torch'))
    assert bootstrap.main([]) == 1
    error = capsys.readouterr().err
    assert 'torch failed (exit status 1)' in error
    assert str(project / '.venv/setup.log') in error
    assert 'The disk is full' in error
    assert 'run the same command again' in error
    assert '| line 39' in error
    assert '| line 20' not in error
    assert not (project / '.venv/setup.stamp').exists()
    use_steps(monkeypatch, script('pass'))
    assert bootstrap.main([]) == 0
    assert (project / '.venv/setup.stamp').is_file()


def test_a_machine_that_is_not_ready_is_left_alone(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(
        bootstrap, 'problems', lambda venv: ['No compiler.', 'No disk.']
    )
    assert bootstrap.main([]) == 1
    error = capsys.readouterr().err
    assert 'No compiler.\nNo disk.' in error
    assert not (project / '.venv').exists()


@pytest.mark.parametrize('status, builds', [(bootstrap.UNFIT, 1), (1, 0)])
def test_mmcv_is_compiled_again_only_where_it_does_not_fit(
    project: Path, monkeypatch: pytest.MonkeyPatch, status: int, builds: int
):
    check = f'import os, sys; sys.exit(0 if os.path.exists("built") else {status})'
    use_steps(monkeypatch, script('pass'), script(check))
    again = script('open("built", "a").write("x")')
    monkeypatch.setattr(bootstrap, 'rebuild', lambda stack, venv: again)
    assert bootstrap.main([]) == (0 if builds else 1)
    assert (project / 'built').exists() == bool(builds)


def test_an_unhealthy_environment_is_made_anew(
    project: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.undo()
    venv = project / '.venv'
    (venv / 'bin').mkdir(parents=True)
    (venv / 'bin/python').symlink_to('nowhere')
    (venv / 'setup.log').write_text('before')
    assert not bootstrap.is_healthy(venv)
    bootstrap.clear(venv)
    assert [path.name for path in venv.iterdir()] == ['setup.log']
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', venv], check=True)
    assert not bootstrap.is_healthy(venv)


def test_a_package_without_its_record_is_forgotten(tmp_path: Path):
    site = tmp_path / 'lib/python3.11/site-packages'
    for name in ('whole', 'half'):
        (site / f'{name}-1.dist-info').mkdir(parents=True)
    (site / 'whole-1.dist-info/RECORD').touch()
    assert bootstrap.drop_half_installed(tmp_path) == ['half-1.dist-info']
    assert [path.name for path in site.iterdir()] == ['whole-1.dist-info']


def test_two_set_ups_do_not_meet(tmp_path: Path):
    venv, order = tmp_path / '.venv', []

    def second() -> None:
        with bootstrap.locked(venv):
            order.append('second')

    with bootstrap.locked(venv):
        other = threading.Thread(target=second)
        other.start()
        time.sleep(0.3)
        order.append('first')
    other.join(10)
    assert order == ['first', 'second']


# Running a command.


def test_a_long_command_shows_that_it_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    log = tmp_path / 'log'
    code = 'import time; print("  [3/78] g++", flush=True); time.sleep(1.5)'
    with log.open('a') as lock:
        status = bootstrap.run(
            [sys.executable, '-c', code], log, lock.fileno(), beat=0.5
        )
    assert status == 0
    assert '0:01 so far, 3 of 78 files compiled' in capsys.readouterr().out


def test_an_interrupted_command_ends_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def interrupt(log: Path) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(bootstrap, 'compiled', interrupt)
    log = tmp_path / 'log'
    command = ['sh', '-c', f'sleep 60 & echo $! > {tmp_path}/child; wait']
    with log.open('a') as lock, pytest.raises(KeyboardInterrupt):
        bootstrap.run(command, log, lock.fileno(), beat=0.5)
    stat = Path('/proc') / (tmp_path / 'child').read_text().strip() / 'stat'
    deadline = time.monotonic() + 5
    while stat.exists() and stat.read_text().split()[2] != 'Z':
        assert time.monotonic() < deadline, 'the child is still running'
        time.sleep(0.05)


def test_pip_stays_inside_the_environment(monkeypatch: pytest.MonkeyPatch):
    for name in ('PYTHONPATH', 'PIP_USER', 'PIP_TARGET'):
        monkeypatch.setenv(name, 'elsewhere')
    monkeypatch.setenv('MAX_JOBS', '3')
    env = bootstrap.clean_environment()
    assert 'elsewhere' not in env.values()
    assert env['MAX_JOBS'] == '3'
    monkeypatch.delenv('MAX_JOBS')
    jobs = bootstrap.clean_environment()['MAX_JOBS']
    assert jobs == str(len(os.sched_getaffinity(0)))


@pytest.mark.parametrize(
    'output, words',
    [
        ("after connection broken by 'NewConnectionError('<pip._vendor", 'network'),
        ('ERROR: No matching distribution found for wheel', 'no fitting package'),
        ('OSError: [Errno 28] No space left on device', 'The disk is full'),
        ('g++: fatal error: Killed signal terminated program cc1plus', 'MAX_JOBS=1'),
        ('something else', 'The lines above'),
    ],
)
def test_a_failure_is_explained(output: str, words: str):
    assert words in bootstrap.explain(output)


def test_the_steps_install_the_pinned_packages():
    for stack, mmcv, pretrain in (
        ('onedl', 'onedl-mmcv==2.3.6', 'onedl-mmpretrain==1.3.6'),
        ('openmmlab', 'mmcv==2.1.0', 'mmpretrain==1.2.0'),
    ):
        steps = bootstrap.steps(stack, 'torch==2.13.0 --pre', Path('.venv'))
        commands = [step.command for step in steps]
        assert commands[1][-2:] == ['torch==2.13.0', '--pre']
        assert commands[2][-2:] == ['--no-build-isolation', mmcv]
        assert f'requirements/{stack}.txt' in commands[3]
        hosts = ['.venv/hosts', '-r', 'requirements/hosts.txt', pretrain]
        assert commands[4][-4:] == hosts
        assert {'--no-deps', '--target'} < set(commands[4])
        assert commands[5][-1] == 'opencv-python-headless==4.12.0.88'
        assert commands[6][-2:] == ['-e', '.']


def test_it_starts_before_anything_is_installed():
    bare = [sys.executable, '-S', '-m', 'tools.environment.bootstrap', '--help']
    done = subprocess.run(bare, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '--stack' in done.stdout
