"""A bar on a terminal, plain lines elsewhere, every line in the log file."""

import os
import pty
import subprocess
import sys

from openmmlab.engine import toy


def command(tmp_path):
    config = toy.write_config(tmp_path, 'epochs')
    tool = str(toy.ROOT / 'tools/train.py')
    return [sys.executable, tool, str(config), '--work-dir', str(tmp_path / 'run')]


def log_file(tmp_path):
    (path,) = (tmp_path / 'run').glob('*/*.log')
    return path.read_text()


def has_control_characters(text):
    return any(ord(char) < 32 and char != '\n' for char in text)


def test_terminal(tmp_path):
    ours, theirs = pty.openpty()
    environment = dict(toy.environment(), TERM='xterm', COLUMNS='100')
    process = subprocess.Popen(
        command(tmp_path), env=environment, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = b''
    try:
        while part := os.read(ours, 65536):
            shown += part
    except OSError:  # how Linux says that the other side is closed
        pass
    os.close(ours)
    assert process.wait() == 0, shown.decode()
    text = shown.decode()
    for part in ('epoch 3/3', '18/18', 'loss ', 'lr ', 'GiB', 'left', 'validation'):
        assert part in text
    assert 'toy/mean' in text
    assert 'Epoch(train)' not in text
    assert text.rindex('\x1b[?25h') > text.rindex('\x1b[?25l')  # cursor shown again
    assert log_file(tmp_path).count('Epoch(train)') == 18
    assert not has_control_characters(log_file(tmp_path))


def test_pipe(tmp_path):
    done = subprocess.run(
        command(tmp_path), env=toy.environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('Epoch(train)') == 18
    assert not has_control_characters(done.stdout)
