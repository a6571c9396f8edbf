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

@pytest.mark.parametrize('notebook', OPENED)
def test_run_all(lab, browser, notebook, tmp_path):
    address, token = lab
    page, broken = browser.new_page(viewport=dict(width=1400, height=1000)), []
    page.set_default_timeout(300_000)
    page.on('pageerror', lambda e: broken.append(str(e)))
    page.goto(f'{address}/lab/tree/nbs/{notebook}?token={token}&reset')
    page.wait_for_selector('.jp-Notebook .jp-CodeCell', timeout=60_000)
    page.evaluate('async () => { await window.jupyterapp.restored; await window.jupyterapp.shell.currentWidget.sessionContext.ready }')
    page.evaluate("async () => { await window.jupyterapp.commands.execute('notebook:run-all-cells') }")
    cells = page.evaluate(CELLS)
    page.screenshot(path=str(Path(os.environ.get('SHOTS', tmp_path))/f'{Path(notebook).stem}.png'))
    page.close()
    assert not broken and not [e for c in cells for e in c['errors']]
    assert all(c['count'] for c in cells if c['source'].strip()), 'every code cell ran'
    assert any('image/png' in c['kinds'] or 'text/html' in c['kinds'] or 'text/markdown' in c['kinds'] for c in cells)
