"save_pretrained, push_to_hub and from_pretrained through a hub: a small one of our own, on this machine"
import base64
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from hashlib import sha1
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import soundfile as sf

from vipant.engine.config import profile
from vipant.listen import Listener

ROOT = Path(__file__).resolve().parents[1]
COMMIT = sha1(b'the first').hexdigest()

class Hub(http.server.BaseHTTPRequestHandler):
    "What huggingface_hub asks of a hub to make a repository, fill it with a commit, list it and read its files"
    def answer(self, body=b'', status=200, kind='application/json', **headers):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for k, v in {'Content-Type': kind, 'Content-Length': str(len(body)), **headers}.items(): self.send_header(k, v)
        self.end_headers()
        if self.command != 'HEAD': self.wfile.write(body)

    def do_POST(self):
        path, body = urlsplit(self.path).path, self.rfile.read(int(self.headers['Content-Length']))
        self.server.asked.append((path, self.headers.get('authorization')))
        if path == '/api/repos/create':
            asked = json.loads(body)
            self.answer(dict(url=f'{self.server.url}/{asked.get("organization", "me")}/{asked["name"]}'))
        elif path == '/api/validate-yaml': self.answer(dict(errors=[], warnings=[]))
        elif '/preupload/' in path:
            files = json.loads(body)['files']
            self.answer(dict(files=[dict(path=f['path'], uploadMode='regular', shouldIgnore=False) for f in files]))
        elif '/commit/' in path: self.commit(path.split('/api/models/')[1].split('/commit/')[0], body)
        else: self.answer(dict(error=path), 404)

    def commit(self, repo, body):
        for line in map(json.loads, body.decode().splitlines()):
            if line['key'] != 'file': continue
            self.server.repos.setdefault(repo, {})[line['value']['path']] = base64.b64decode(line['value']['content'])
        self.answer(dict(success=True, commitOid=COMMIT, commitUrl=f'{self.server.url}/{repo}/commit/{COMMIT}'))

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append((path, self.headers.get('authorization')))
        if found := re.fullmatch(r'/([^/]+/[^/]+)/resolve/[^/]+/(.+)', path): return self.file(*found.groups())
        found = re.match(r'/api/models/([^/]+/[^/]+)(?:/(revision|tree)/[^/]+)?', path)
        files = self.server.repos.get(found[1]) if found else None
        if files is None: return self.answer(dict(error='not found'), 404, **{'X-Error-Code': 'RepoNotFound'})
        if found[2] == 'tree':
            listed = [dict(type='file', path=f, size=len(b), oid=sha1(b).hexdigest()) for f, b in files.items()]
            return self.answer(listed)
        self.answer(dict(id=found[1], sha=COMMIT, private=False, tags=[], downloads=0, likes=0, siblings=[
            dict(rfilename=f) for f in files]))

    do_HEAD = do_GET

    def file(self, repo, name):
        body = self.server.repos.get(repo, {}).get(name)
        if body is None: return self.answer(dict(error='Entry not found'), 404, **{'X-Error-Code': 'EntryNotFound'})
        self.answer(body, kind='application/octet-stream', ETag=f'"{sha1(body).hexdigest()}"',
                    **{'X-Repo-Commit': COMMIT})

    def log_message(self, *args): pass

@pytest.fixture(scope='module')
def hub():
    s = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Hub)
    s.url, s.repos, s.asked = f'http://127.0.0.1:{s.server_port}', {}, []
    threading.Thread(target=s.serve_forever, daemon=True).start()
    yield s
    s.shutdown()
    s.server_close()

def python(code, hub, place, *args):
    env = os.environ | dict(HF_ENDPOINT=hub.url, HF_HOME=str(place), HF_TOKEN='hf_none', VIPANT_PROFILE='smoke',
                            HF_HUB_DISABLE_XET='1', HF_HUB_DISABLE_TELEMETRY='1')
    return subprocess.run([sys.executable, '-c', code, *map(str, args)], cwd=ROOT, env=env, capture_output=True,
                          text=True, timeout=600, stdin=subprocess.DEVNULL)

PUSH = "import sys; from vipant.listen import Listener; Listener.from_pretrained(sys.argv[1]).push_to_hub('me/mine')"
READ = """
import sys, numpy as np
from vipant.listen import Listener
listener = Listener.from_pretrained('me/mine')
np.savez(sys.argv[2], sound=listener.sounds(sys.argv[1]), text=listener.texts('a dog barks'))
"""

def test_what_is_pushed_is_what_comes_back(hub, tmp_path):
    own = Listener(profile('smoke'), '+AT w/ GC')
    own.save_pretrained(tmp_path/'own')
    sf.write(tmp_path/'x.wav', np.random.default_rng(0).uniform(-.3, .3, 16000), 16000)
    r = python(PUSH, hub, tmp_path/'pushing', tmp_path/'own')
    assert r.returncode == 0, r.stderr[-3000:]
    kept = hub.repos['me/mine']
    assert {'README.md', 'config.json', 'model.safetensors', 'towers.safetensors'} <= set(kept)
    for f in (tmp_path/'own').iterdir(): assert kept[f.name] == f.read_bytes()
    r = python(READ, hub, tmp_path/'reading', tmp_path/'x.wav', tmp_path/'found.npz')
    assert r.returncode == 0, r.stderr[-3000:]
    with np.load(tmp_path/'found.npz') as found:
        for name, here in dict(sound=own.sounds(tmp_path/'x.wav'), text=own.texts('a dog barks')).items():
            assert np.abs(found[name] - here.numpy()).max() < 1e-5      # MKL rounds otherwise here: see conftest.py

def test_a_model_that_is_not_there_is_one_line(hub, tmp_path):
    code = "from vipant.use.model_sources import find_parts; find_parts('me/none')"
    r = python(code, hub, tmp_path)
    assert r.returncode == 1
    assert r.stderr.strip().splitlines()[-1].startswith('ConnectionError: me/none cannot be had from the hub:')
