"""Notebooks open in JupyterLab, in a browser, and Run All takes them to their end

Skipped without Chromium. VIPANT_LAB=all: every notebook. Nothing here is timed: each wait is for a state, and its end
is far off, since a busy machine may be slow; a kernel that does not come is shut down, and a second one is tried.
"""
import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

sync_api = pytest.importorskip('playwright.sync_api')
BROWSERS = ('chromium', 'chromium-browser', 'google-chrome')
CHROME = os.environ.get('CHROMIUM') or next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = pytest.mark.skipif(not CHROME, reason='no Chromium (set $CHROMIUM)')
QUIET = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
         '--disable-component-update', '--disable-sync']

ROOT = Path(__file__).resolve().parents[1]
FOUND = [p.relative_to(ROOT/'nbs') for p in sorted((ROOT/'nbs').rglob('*.ipynb'))]
ALL = [p.as_posix() for p in FOUND if '.ipynb_checkpoints' not in p.parts]
OPENED = ALL if os.environ.get('VIPANT_LAB') == 'all' else ['04_curation.ipynb', 'paper/table3_retrieval.ipynb']
STARTS, RUNS = 300, 600     # seconds after which a start, or a run of all cells, is given up

# Lab draws only the cells in view, so the notebook's model is asked, not the page
CELLS = """() => {
    const cells = window.jupyterapp.shell.currentWidget.content.model.sharedModel.toJSON().cells
    return cells.filter(c => c.cell_type === 'code').map(c => ({
        count: c.execution_count, source: [].concat(c.source).join(''),
        kinds: c.outputs.flatMap(o => Object.keys(o.data || {})),
        errors: c.outputs.filter(o => o.output_type === 'error').map(o => o.ename + ': ' + o.evalue)}))}"""
IDLE = "() => window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
RUN_ALL = "() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }"     # its promise may never come back

# the server

class Lab:
    "JupyterLab in the folder `place`, with the checkout's own runs"
    def __init__(self, place):
        with socket.socket() as s:
            s.bind(('127.0.0.1', 0))
            port = s.getsockname()[1]
        self.address, self.token, self.log = f'http://127.0.0.1:{port}', secrets.token_hex(8), place/'lab.log'
        env = os.environ | dict(
            JUPYTERLAB_SETTINGS_DIR=str(place/'lab-settings'), JUPYTERLAB_WORKSPACES_DIR=str(place/'workspaces'),
            VIPANT_ROOT=str(ROOT), VIPANT_PROFILE='smoke', VIPANT_FIGURES=str(place/'figures'))
        options = [
            '--no-browser', '--allow-root', '--ip=127.0.0.1', f'--port={port}', '--ServerApp.port_retries=0',
            f'--IdentityProvider.token={self.token}', f'--ServerApp.root_dir={place}',
            '--LabApp.expose_app_in_browser=True', '--LabApp.extension_manager=readonly',
            '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate']
        with self.log.open('w', encoding='utf-8') as log:
            self.process = subprocess.Popen([sys.executable, '-m', 'jupyterlab', *options], cwd=place, env=env,
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)

    def ask(self, path, method='GET'):
        "What the server's API answers"
        request = urllib.request.Request(f'{self.address}/api{path}?token={self.token}', method=method)
        with urllib.request.urlopen(request, timeout=60) as response: return json.loads(response.read() or 'null')

    def said(self): return self.log.read_text(encoding='utf-8')

    def wait(self):
        "Until it answers; AssertionError with its log if it ends before"
        end = time.time() + STARTS
        while time.time() < end:
            assert self.process.poll() is None, self.said()
            try: return self.ask('')
            except OSError: time.sleep(.5)
        raise AssertionError(f'JupyterLab did not answer: {self.said()}')

    def shut_down_kernels(self):
        for session in self.ask('/sessions'): self.ask(f'/sessions/{session["id"]}', 'DELETE')

    def close(self):
        self.process.terminate()        # it takes its kernels with it
        try: self.process.wait(120)
        except subprocess.TimeoutExpired: self.process.kill()
        self.process.wait()

@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "JupyterLab on a copy of the notebooks, since it saves what it runs"
    place = tmp_path_factory.mktemp('lab')
    shutil.copytree(ROOT/'nbs', place/'nbs', ignore=shutil.ignore_patterns('.ipynb_checkpoints'))
    settings = place/'lab-settings'/'@jupyterlab'/'apputils-extension'
    settings.mkdir(parents=True)
    no_news = dict(fetchNews='false')       # else a question covers the page
    (settings/'notification.jupyterlab-settings').write_text(json.dumps(no_news), encoding='utf-8')
    server = Lab(place)
    try:
        server.wait()
        yield server
    finally: server.close()

# the browser

@pytest.fixture(scope='module')
def browser():
    with sync_api.sync_playwright() as p:
        b = p.chromium.launch(executable_path=CHROME, headless=True, args=QUIET, timeout=1000*STARTS)
        yield b
        b.close()

def run_all(page):
    "Run all cells of the open notebook and wait until the kernel has been through them: (cells, did it end in time?)"
    page.evaluate(RUN_ALL)
    end, ended = time.time() + RUNS, False
    while not ended and time.time() < end:
        time.sleep(.5)
        idle, cells = page.evaluate(IDLE), page.evaluate(CELLS)
        through = all(c['count'] for c in cells if c['source'].strip()) or any(c['errors'] for c in cells)
        ended = idle and through
    return cells, ended

def try_notebook(browser, lab, notebook, picture):
    "Open a notebook and run it: (cells, errors of the page, did a kernel come and go through all cells?)"
    page, broken, cells, ended = browser.new_page(viewport=dict(width=1400, height=1000)), [], [], False
    page.set_default_timeout(1000*STARTS)
    page.on('pageerror', lambda e: broken.append(str(e)))
    try:
        page.goto(f'{lab.address}/lab/tree/nbs/{notebook}?token={lab.token}&reset')
        page.wait_for_selector('.jp-Notebook .jp-CodeCell')
        page.wait_for_function(IDLE)
        cells, ended = run_all(page)
        with contextlib.suppress(sync_api.TimeoutError): page.screenshot(path=picture)     # for people
    except sync_api.Error as e: broken.append(str(e))
    finally: page.close()
    return cells, broken, ended

@pytest.mark.parametrize('notebook', OPENED)
def test_run_all(lab, browser, notebook, tmp_path):
    picture = str(Path(os.environ.get('SHOTS', tmp_path))/f'{Path(notebook).stem}.png')
    for _ in range(2):      # a kernel may not come, and a browser may lose a message, on a busy machine
        cells, broken, ended = try_notebook(browser, lab, notebook, picture)
        if ended: break
        lab.shut_down_kernels()
    assert not broken and not [e for c in cells for e in c['errors']]
    assert ended and all(c['count'] for c in cells if c['source'].strip()), 'every code cell ran'
    if notebook[0].isdigit() or notebook.startswith('paper/'):      # the story and the results are looked at
        assert {kind for c in cells for kind in c['kinds']} & {'image/png', 'text/html', 'text/markdown'}
