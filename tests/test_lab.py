"Notebooks open in JupyterLab, in a browser, and Run All takes them to their end (skipped without Chromium). VIPANT_LAB=all: every notebook"
import json, os, secrets, shutil, socket, subprocess, sys, time, urllib.request
from pathlib import Path

import pytest

sync_api = pytest.importorskip('playwright.sync_api')
CHROME = os.environ.get('CHROMIUM') or shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
pytestmark = pytest.mark.skipif(not CHROME, reason='no Chromium (set $CHROMIUM)')
ROOT = Path(__file__).resolve().parents[1]
BROWSER = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync']
ALL = [str(p.relative_to(ROOT/'nbs')) for folder in ('nbs', 'nbs/paper') for p in sorted((ROOT/folder).glob('*.ipynb'))]
OPENED = ALL if os.environ.get('VIPANT_LAB') == 'all' else ['04_curation.ipynb', 'paper/table3_retrieval.ipynb']

# Lab draws only the cells in view, so the notebook's model is asked, not the page
CELLS = """() => window.jupyterapp.shell.currentWidget.content.model.sharedModel.toJSON().cells.filter(c => c.cell_type === 'code').map(c => ({
    count: c.execution_count, source: [].concat(c.source).join(''), kinds: c.outputs.flatMap(o => Object.keys(o.data || {})),
    errors: c.outputs.filter(o => o.output_type === 'error').map(o => o.ename + ': ' + o.evalue)}))"""

@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "JupyterLab on a copy of the notebooks (it saves what it runs), with the checkout's own runs: (address, token)"
    place = tmp_path_factory.mktemp('lab')
    shutil.copytree(ROOT/'nbs', place/'nbs', ignore=shutil.ignore_patterns('.ipynb_checkpoints'))
    settings = place/'lab-settings'/'@jupyterlab'/'apputils-extension'
    settings.mkdir(parents=True)
    (settings/'notification.jupyterlab-settings').write_text(json.dumps(dict(fetchNews='false')))   # else a question covers the page
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    token = secrets.token_hex(8)
    env = os.environ | dict(JUPYTERLAB_SETTINGS_DIR=str(place/'lab-settings'), JUPYTERLAB_WORKSPACES_DIR=str(place/'workspaces'),
                            VIPANT_ROOT=str(ROOT), VIPANT_PROFILE='smoke', VIPANT_FIGURES=str(place/'figures'))
    with (place/'lab.log').open('w') as log:
        p = subprocess.Popen([sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', '--ip=127.0.0.1', f'--port={port}', '--ServerApp.port_retries=0',
                              f'--IdentityProvider.token={token}', f'--ServerApp.root_dir={place}', '--LabApp.expose_app_in_browser=True',
                              '--LabApp.extension_manager=readonly', '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate'],
                             cwd=place, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=env)
    try:
        for _ in range(240):
            assert p.poll() is None, (place/'lab.log').read_text()
            try: urllib.request.urlopen(f'http://127.0.0.1:{port}/api?token={token}', timeout=2); break
            except OSError: time.sleep(.25)
        yield f'http://127.0.0.1:{port}', token
    finally: p.terminate(); p.wait(20)

@pytest.fixture(scope='module')
def browser():
    with sync_api.sync_playwright() as p:
        b = p.chromium.launch(executable_path=CHROME, headless=True, args=BROWSER)
        yield b
        b.close()

def run_all(browser, address, token, notebook, picture, seconds=150):
    "Open a notebook, Run All, and wait until the kernel has been through all cells: (cells, errors of the page, did it end in time?)"
    page, broken, end = browser.new_page(viewport=dict(width=1400, height=1000)), [], time.time() + seconds
    page.on('pageerror', lambda e: broken.append(str(e)))
    page.goto(f'{address}/lab/tree/nbs/{notebook}?token={token}&reset')
    page.wait_for_selector('.jp-Notebook .jp-CodeCell', timeout=60_000)
    page.wait_for_function("() => window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'", timeout=60_000)
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")     # not awaited: its promise may never come back
    while True:
        cells = page.evaluate(CELLS)
        idle = page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === 'idle'")
        ended = idle and (all(c['count'] for c in cells if c['source'].strip()) or any(c['errors'] for c in cells))
        if ended or time.time() > end: break
        time.sleep(.5)
    page.screenshot(path=picture)
    page.close()
    return cells, broken, ended

@pytest.mark.parametrize('notebook', OPENED)
def test_run_all(lab, browser, notebook, tmp_path):
    picture = str(Path(os.environ.get('SHOTS', tmp_path))/f'{Path(notebook).stem}.png')
    for _ in range(2):      # a browser may lose a message under load
        cells, broken, ended = run_all(browser, *lab, notebook, picture)
        if ended: break
    assert not broken and not [e for c in cells for e in c['errors']]
    assert ended and all(c['count'] for c in cells if c['source'].strip()), 'every code cell ran'
    assert any('image/png' in c['kinds'] or 'text/html' in c['kinds'] or 'text/markdown' in c['kinds'] for c in cells)
