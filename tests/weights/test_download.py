"""Downloads happen once, whole, checked; what cannot be had says how to go on."""

import hashlib
import json
import multiprocessing
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from mmssm.weights import download, released
from mmssm.weights.download import DownloadError, fetch, main

CONTENT = bytes(range(256)) * 4096


class Server(ThreadingHTTPServer):
    """Answers by the path: /cut/N/ stops after N bytes, and so on."""

    daemon_threads = True

    def __init__(self):
        super().__init__(('127.0.0.1', 0), Handler)
        self.asked, self.starts, self.content, self.cuts = [], [], CONTENT, 1
        self.stop = threading.Event()
        self.url = f'http://127.0.0.1:{self.server_port}'
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        server, kind = self.server, self.path.split('/')[1]
        server.asked.append(self.path)
        content = server.content
        if kind == 'gone':
            return self.send_error(404)
        if kind == 'busy' and server.cuts:
            server.cuts -= 1
            return self.send_error(503)
        if kind == 'slow':
            server.stop.wait(20)
        if kind == 'moved':
            self.send_response(302)
            self.send_header('Location', '/file/w.pth')
            return self.end_headers()
        if kind == 'page':
            content = b'<!DOCTYPE html><html>Confirm that you want this file</html>'
        version = hashlib.sha256(content).hexdigest()
        asked = self.headers.get('Range')
        goes_on = asked and self.headers.get('If-Range') == f'"{version}"'
        start = int(asked[len('bytes=') : -1]) if goes_on else 0
        server.starts.append(start)
        self.send_response(206 if goes_on else 200)
        if goes_on:
            rest = f'bytes {start}-{len(content) - 1}/{len(content)}'
            self.send_header('Content-Range', rest)
        self.send_header('ETag', f'"{version}"')
        self.send_header('Content-Length', str(len(content) - start))
        self.end_headers()
        content = content[start:]
        if kind == 'cut' and server.cuts:
            server.cuts -= 1
            content = content[: len(content) // 3]
        if kind == 'always_cut':
            content = content[:-1]
        self.wfile.write(content)


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv('MMSSM_HOME', str(tmp_path / 'home'))
    monkeypatch.setattr(download.time, 'sleep', lambda seconds: None)
    server = Server()
    yield server
    server.stop.set()
    server.shutdown()
    server.server_close()


def test_a_file_is_downloaded_once_and_recorded(server):
    path = fetch(f'{server.url}/file/w.pth')
    assert path.read_bytes() == CONTENT
    assert fetch(f'{server.url}/file/w.pth') == path
    assert len(server.asked) == 1
    record = json.loads(path.with_name(f'{path.name}.json').read_text())
    assert record['sha256'] == hashlib.sha256(CONTENT).hexdigest()
    assert record['size'] == len(CONTENT)
    left = {p.name for p in path.parent.iterdir()}
    assert left == {path.name, f'{path.name}.json', f'.{path.name}.lock'}


def test_two_urls_with_one_last_part_are_two_files(server):
    first = fetch(f'{server.url}/a/w.pth')
    server.content = b'other'
    second = fetch(f'{server.url}/b/w.pth?download=true')
    assert (first.read_bytes(), second.read_bytes()) == (CONTENT, b'other')
    assert first.name.endswith('-w.pth')
    assert second.name.endswith('-w.pth')


def test_redirects_are_followed(server):
    assert fetch(f'{server.url}/moved/w.pth').read_bytes() == CONTENT


def test_redirects_from_https_to_http_are_refused():
    class Request:
        type = 'https'

    with pytest.raises(OSError, match='redirected from https to http://a.org'):
        download._SameOrSafer().redirect_request(
            Request(), None, 302, '', {}, 'http://a.org/w.pth'
        )


def test_a_download_goes_on_where_it_was_cut_off(server):
    assert fetch(f'{server.url}/cut/w.pth').read_bytes() == CONTENT
    assert server.starts == [0, len(CONTENT) // 3]


def test_a_file_that_changed_meanwhile_starts_again(server, monkeypatch):
    monkeypatch.setattr(download, 'TRIES', 1)
    with pytest.raises(DownloadError, match='cut off after'):
        fetch(f'{server.url}/cut/w.pth')
    server.content = b'new' * 1000
    assert fetch(f'{server.url}/cut/w.pth').read_bytes() == server.content
    assert server.starts == [0, 0]


def test_a_busy_server_is_asked_again(server):
    assert fetch(f'{server.url}/busy/w.pth').read_bytes() == CONTENT


@pytest.mark.parametrize(
    ('kind', 'reason'),
    [('gone', 'HTTP 404'), ('always_cut', 'cut off after 1048575 of 1048576 bytes')],
)
def test_what_cannot_be_had_says_how_to_go_on(server, kind, reason, tmp_path):
    url = f'{server.url}/{kind}/w.pth'
    with pytest.raises(DownloadError) as caught:
        fetch(url)
    message = str(caught.value)
    assert reason in message
    assert '\n' not in message
    folder = tmp_path / 'home'
    assert f'Save {url} by hand as ' in message
    assert f'-w.pth in the folder {folder}' in message
    assert 'init_cfg=None' in message
    assert not list(folder.glob('*.pth'))


def test_a_silent_server_is_left(server, monkeypatch):
    monkeypatch.setattr(download, 'TIMEOUT', 0.2)
    with pytest.raises(DownloadError, match='timed out.*by hand as'):
        fetch(f'{server.url}/slow/w.pth')


def test_a_host_that_is_gone_says_how_to_go_on(server):
    url = f'{server.url}/file/w.pth'
    server.shutdown()
    server.server_close()
    with pytest.raises(DownloadError, match='refused.*Save http.* by hand as'):
        fetch(url)


def test_a_file_saved_by_hand_is_taken(server, tmp_path):
    entry = 'vminet_xs'
    (tmp_path / 'home').mkdir()
    (tmp_path / 'home' / 'vminet_xs.pth').write_bytes(CONTENT)
    assert fetch(entry).read_bytes() == CONTENT
    assert fetch(released.RELEASED[entry].address) == fetch(entry)
    assert server.asked == []


def test_a_web_page_is_refused(server, tmp_path):
    with pytest.raises(ValueError, match='a web page instead of a file.*by hand as'):
        fetch(f'{server.url}/page/w.pth')
    assert not list((tmp_path / 'home').glob('*.pth'))


def test_a_changed_file_is_refused(server):
    url = f'{server.url}/file/w.pth'
    path = fetch(url)
    path.write_bytes(b'changed')
    with pytest.raises(ValueError, match='at the first download'):
        fetch(url)
    path.unlink()
    server.content = b'another file under the old address'
    with pytest.raises(ValueError, match='at the first download'):
        fetch(url)
    assert not list(path.parent.glob('.*.part'))
    server.content = CONTENT
    assert fetch(url).read_bytes() == CONTENT


def test_the_hash_in_a_name_is_compared(server):
    digest = hashlib.sha256(CONTENT).hexdigest()
    assert fetch(f'{server.url}/file/w-{digest[:8]}.pth').is_file()
    assert fetch(f'{server.url}/file/w-20261127.pth').is_file()
    with pytest.raises(ValueError, match='0123abcd by its name'):
        fetch(f'{server.url}/file/w-0123abcd.pth')


def test_a_published_hash_and_size_are_compared(server, monkeypatch):
    entry = released.RELEASED['vminet_xs']._replace(
        address=f'{server.url}/file/w.pth', size=1
    )
    monkeypatch.setitem(released.RELEASED, 'vminet_xs', entry)
    with pytest.raises(ValueError, match='1048576 bytes; expected 1$'):
        fetch('vminet_xs')
    monkeypatch.setitem(
        released.RELEASED, 'vminet_xs', entry._replace(size=None, sha256='ab' * 32)
    )
    with pytest.raises(ValueError, match='as published'):
        fetch('vminet_xs')


def _fetch(url, answers):
    answers.put(fetch(url).read_bytes() == CONTENT)


def test_of_many_processes_one_downloads(server):
    context = multiprocessing.get_context('fork')
    answers = context.Queue()
    url = f'{server.url}/cut/w.pth'
    processes = [context.Process(target=_fetch, args=(url, answers)) for _ in range(4)]
    for process in processes:
        process.start()
    assert [answers.get(timeout=60) for _ in processes] == [True] * 4
    for process in processes:
        process.join()
    assert len(server.asked) == 2  # cut off once


@pytest.mark.parametrize('url', ['https://a.org/v1/', 'https://a.org', 'http://a/?x=1'])
def test_a_url_without_a_file_name_is_named(url, server):
    with pytest.raises(ValueError, match='ends in no file name'):
        fetch(url)


def test_unknown_names_list_the_known(server):
    with pytest.raises(FileNotFoundError, match='released are spatial_mamba_tiny'):
        fetch('vmamba_giant')


def test_a_path_stays_a_path(server, tmp_path):
    torch.save({}, tmp_path / 'a.pth')
    assert fetch(tmp_path / 'a.pth') == tmp_path / 'a.pth'


@pytest.mark.parametrize(
    'url',
    [
        'spatial_mamba_tiny',
        'https://drive.google.com/uc?export=download&id=ABC-_1',
        'https://drive.google.com/file/d/ABC-_1/view',
    ],
)
def test_google_drive_needs_gdown(url, server, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'gdown', None)
    with pytest.raises(DownloadError, match='pip install gdown.*/view by hand as '):
        fetch(url)


def test_google_drive_by_gdown(server, monkeypatch):
    class Failed(Exception):
        pass

    class Gdown:
        class exceptions:  # noqa: N801
            DownloadError = Failed

        content = b'<html>quota exceeded</html>'

        @classmethod
        def download(cls, id, output, quiet):
            if cls.content is None:
                raise Failed('Too many users\nhave viewed this file')
            with open(output, 'wb') as file:
                file.write(cls.content)
            return output

    monkeypatch.setitem(__import__('sys').modules, 'gdown', Gdown)
    with pytest.raises(ValueError, match='a web page'):
        fetch('spatial_mamba_tiny')
    Gdown.content = None
    with pytest.raises(DownloadError, match='Too many users have .*by hand as'):
        fetch('spatial_mamba_tiny')
    Gdown.content = CONTENT
    path = fetch('configs/spatial_mamba/mask-rcnn_spatialmamba-t_fpn_1x_coco.py')
    assert path.name == 'mask-rcnn_spatialmamba-t_fpn_1x_coco.pth'
    assert path.read_bytes() == CONTENT


def test_command(server, capsys):
    assert main(['--list']) == 0
    assert 'vminet_xs' in capsys.readouterr().out
    assert main([f'{server.url}/file/w.pth']) == 0
    assert capsys.readouterr().out.strip().endswith('-w.pth')
    assert main([f'{server.url}/gone/w.pth']) == 1
    assert 'by hand' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([])


def test_official_names():
    assert released.official_name('spatial_mamba', 'tiny') == 'spatial_mamba_tiny'
    config = 'mask-rcnn_spatialmamba-b_fpn_1x_coco'
    path = f'configs/spatial_mamba/{config}.py'
    assert released.official_name('spatial_mamba', 'base', path) == config
    with pytest.raises(ValueError, match="released for 'vminet_tiny'"):
        released.official_name('vminet', 'tiny')
