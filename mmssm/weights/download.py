"""Weights from where their authors publish them: downloaded once, checked, kept.

    mmssm-download NAME|CONFIG|URL      mmssm-download --list

The folder is $MMSSM_HOME, else checkpoints/ in torch.hub's.  Beside each file stands
FILE.json with its address, size and SHA-256, recorded at the first download.
"""

import argparse
import fcntl
import hashlib
import http.client
import json
import os
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import BinaryIO
from urllib.parse import parse_qs, unquote, urlsplit

import torch

from mmssm.weights.files import write_whole
from mmssm.weights.released import DRIVE, RELEASED, Released

TIMEOUT = 30  # seconds without a byte
TRIES = 3
BLOCK = 2**20


class DownloadError(OSError):
    """A file that could not be had, and how to go on without the network."""


def cache_folder() -> Path:
    """Where downloads are kept: $MMSSM_HOME, else checkpoints/ in torch.hub's."""
    home = os.environ.get('MMSSM_HOME')
    return Path(home).expanduser() if home else Path(torch.hub.get_dir(), 'checkpoints')


def fetch(source: str | os.PathLike) -> Path:
    """The local file of weights, downloaded where it is not there yet.

    source: a path; a name or config of `mmssm.weights.released.RELEASED`; an http or
    https URL, of Google Drive too (by the package gdown).
    One process downloads while others wait; a broken download goes on where it
    stopped.  The size, the SHA-256 in a name such as NAME-0123abcd.pth, and that of
    the first download must agree.
    Raises FileNotFoundError for a source that is nothing of these, ValueError for a
    URL without a file name and a file that has changed, DownloadError (an OSError)
    for what could not be had, with the folder and name under which to save it by hand.
    """
    text = os.fspath(source)
    if Path(text).is_file() and text not in RELEASED and PurePath(text).suffix != '.py':
        return Path(text)
    address, name, entry = _find(text)
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / name
    with _one_at_a_time(target):
        if not target.is_file():
            part = _beside(target, '.part')
            if address.startswith(DRIVE):
                _from_drive(address, part, target)
            else:
                _from_url(address, part, target)
            try:
                _check(part, target, address, entry)
            except ValueError:
                part.unlink()
                raise
            os.replace(part, target)
        else:
            _check(target, target, address, entry)
    return target


def _find(text: str) -> tuple[str, str, Released | None]:
    """Address, file name in the folder, entry of the table."""
    known = PurePath(text).name.removesuffix('.py') if '://' not in text else text
    for name, entry in RELEASED.items():
        if known in (name, entry.address, entry.url):
            return entry.address, f'{name}.pth', entry
    if re.match(r'https?://', text):
        key = _drive_key(text)
        if key:
            return f'{DRIVE}{key}', f'drive-{key}.pth', None
        last = unquote(urlsplit(text).path).rpartition('/')[2]
        if not re.search(r'\w', last):
            raise ValueError(
                f'{text!r} ends in no file name; expected the URL of a file, such as '
                'https://HOST/FOLDER/weights.pth'
            )
        unique = hashlib.sha256(text.encode()).hexdigest()[:8]
        last = re.sub(r'[^-+.\w]', '_', last[-150:])
        return text, f'{unique}-{last}', None
    raise FileNotFoundError(
        f'no file, URL or released weights {text!r}; released are '
        f'{", ".join(RELEASED)} (mmssm-download --list)'
    )


def _drive_key(url: str) -> str | None:
    parts = urlsplit(url)
    if parts.hostname not in ('drive.google.com', 'drive.usercontent.google.com'):
        return None
    found = re.search(r'/d/([\w-]+)', parts.path)
    return found[1] if found else parse_qs(parts.query).get('id', [None])[0]


def _beside(target: Path, suffix: str) -> Path:
    return target.with_name(f'.{target.name}{suffix}')


@contextmanager
def _one_at_a_time(target: Path) -> Iterator[None]:
    """Hold the target's lock, which the system frees when the process dies."""
    with open(_beside(target, '.lock'), 'a') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _check(path: Path, target: Path, address: str, entry: Released | None) -> None:
    """Compare a file with all that is known of it, then record it."""
    with open(path, 'rb') as file:
        if file.read(512).lstrip()[:64].lower().startswith((b'<!doctype', b'<html')):
            raise ValueError(
                f'{address} gave a web page instead of a file (a confirmation or a '
                f'sign-in). {_by_hand(address, target)}'
            )
        file.seek(0)
        digest = _sha256(file)
        size = file.tell()
    record = target.with_name(f'{target.name}.json')
    first = json.loads(record.read_text()) if record.is_file() else {}
    # NAME-0123abcd.pth, but not a date
    in_name = re.search(r'-(?!20\d{6}\.)([0-9a-f]{8,64})\.', target.name)
    for expected, source in (
        (first.get('sha256'), f'at the first download ({record} says so)'),
        (entry and entry.sha256, 'as published'),
        (in_name and in_name[1], 'by its name'),
    ):
        if expected and not digest.startswith(expected):
            raise ValueError(
                f'{path}: SHA-256 {digest} from {address}, but {expected} {source}. '
                f'Delete {target} to download it again; if the authors changed the '
                f'file and you trust it, delete {record} too'
            )
    if entry and entry.size not in (None, size):
        raise ValueError(f'{path} has {size} bytes; expected {entry.size}')
    if not first:
        content = {'address': address, 'sha256': digest, 'size': size}
        write_whole(record, json.dumps(content, indent=1).encode())


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := file.read(BLOCK):
        digest.update(block)
    return digest.hexdigest()


def _by_hand(address: str, target: Path) -> str:
    if address.startswith(DRIVE):
        key = address.removeprefix(DRIVE)
        address = f'https://drive.google.com/file/d/{key}/view'
    return (
        f'Save {address} by hand as {target.name} in the folder {target.parent}, or go '
        'on without it: weights=None, init_cfg=None'
    )


def _from_drive(address: str, part: Path, target: Path) -> None:
    """Google Drive asks for a confirmation of large files, which gdown gives."""
    try:
        import gdown
    except ImportError as error:
        raise DownloadError(
            f'{address} is on Google Drive, which needs the package gdown: pip install '
            f'gdown. {_by_hand(address, target)}'
        ) from error
    key = address.removeprefix(DRIVE)
    try:
        done = gdown.download(id=key, output=str(part), quiet=not sys.stderr.isatty())
    except (OSError, RuntimeError, ValueError, gdown.exceptions.DownloadError) as error:
        done, reason = None, error
    else:
        reason = 'no file came'
    if done is None or not part.is_file():
        part.unlink(missing_ok=True)
        words = ' '.join(str(reason).split())[:200]
        raise DownloadError(f'Google Drive: {words}. {_by_hand(address, target)}')


def _from_url(url: str, part: Path, target: Path) -> None:
    """Download to `part`, going on where an earlier try stopped."""
    for attempt in range(TRIES):
        try:
            _go_on(url, part, target.name)
            return
        except urllib.error.HTTPError as error:
            if error.code == 416:  # the part is not of this file
                part.unlink(missing_ok=True)
                reason = 'the part of an earlier download does not fit'
            else:
                reason = f'HTTP {error.code} {error.reason}'
                if error.code < 500:
                    break
        except (OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, 'reason', error)) or type(error).__name__
        if attempt + 1 < TRIES:
            time.sleep(2**attempt / 4)
    raise DownloadError(f'{url}: {reason}. {_by_hand(url, target)}')


def _go_on(url: str, part: Path, name: str) -> None:
    state = part.with_name(f'{part.name}.json')
    start, request = 0, urllib.request.Request(url, headers={'User-Agent': 'mmssm'})
    if part.is_file() and state.is_file():
        start = part.stat().st_size
        request.add_header('Range', f'bytes={start}-')
        request.add_header('If-Range', json.loads(state.read_text())['version'])
    with _OPENER.open(request, timeout=TIMEOUT) as answer:
        if answer.status != 206:
            start = 0
        elif f'bytes {start}-' not in answer.headers.get('Content-Range', ''):
            part.unlink()
            raise OSError('the server gave another range than asked for')
        version = answer.headers.get('ETag') or answer.headers.get('Last-Modified')
        if version and not version.startswith('W/'):
            write_whole(state, json.dumps({'version': version}).encode())
        else:
            state.unlink(missing_ok=True)
        length = answer.headers.get('Content-Length')
        total = start + int(length) if length else None
        with open(part, 'ab' if start else 'wb') as file:
            show = _Progress(name, total)
            while block := answer.read(BLOCK):
                file.write(block)
                show(file.tell())
            show.end()
            size = file.tell()
    if total is not None and size != total:
        raise OSError(f'cut off after {size} of {total} bytes')
    state.unlink(missing_ok=True)


class _SameOrSafer(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but not from https to anything else."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: BinaryIO,
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if req.type == 'https' and not newurl.startswith('https:'):
            raise urllib.error.URLError(f'redirected from https to {newurl}')
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_SameOrSafer)


class _Progress:
    """A line on stderr, where somebody sees it."""

    def __init__(self, name: str, total: int | None) -> None:
        self.name, self.total = name, total
        self.shown = sys.stderr.isatty()
        self.last = 0.0

    def __call__(self, done: int) -> None:
        if self.shown and time.monotonic() - self.last > 0.1:
            self.last = time.monotonic()
            share = f' of {self.total / 1e6:.1f}' if self.total else ''
            bar = f'{done / self.total:5.0%} ' if self.total else ''
            sys.stderr.write(f'\r{self.name}  {bar}{done / 1e6:.1f}{share} MB ')
            sys.stderr.flush()

    def end(self) -> None:
        if self.shown:
            sys.stderr.write('\n')


def listing() -> str:
    """The table of released weights, a line each."""
    lines = []
    for name, entry in RELEASED.items():
        metrics = ', '.join(f'{key} {value}' for key, value in entry.metrics.items())
        lines.append(f'{name:52}{entry.task:16}{metrics}')
    return '\n'.join([*lines, 'Metrics as published by the authors.'])


def main(argv: Sequence[str] | None = None) -> int:
    """The command mmssm-download; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog='mmssm-download',
        description='Download released weights once and print where they are.',
        epilog='The folder is $MMSSM_HOME, else checkpoints/ in the one of torch.hub.',
    )
    parser.add_argument('source', nargs='*', help='name (see --list), config or URL')
    parser.add_argument('--list', action='store_true', help='what was released')
    args = parser.parse_args(argv)
    if args.list:
        sys.stdout.write(f'{listing()}\n')
    elif not args.source:
        parser.error('name what to download, or --list')
    for source in args.source:
        try:
            sys.stdout.write(f'{fetch(source)}\n')
        except (OSError, ValueError) as error:
            sys.stderr.write(f'mmssm-download: {error}\n')
            return 1
    return 0
