"""Whoever is told to stop says so and leaves no process behind; whoever is killed leaves none either"""
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[1]
VIPANT = Path(sys.executable).parent/'vipant'

def wait_until(done, what, seconds=600):
    "A state, not a time: generous, as the machine may be busy"
    end = time.time() + seconds
    while not (found := done()):
        assert time.time() < end, f'{what} did not come within {seconds} s'
        time.sleep(.05)
    return found

def started(p, wanted):
    "The processes below `p` once one of them has `wanted` in its command line"
    def below():
        assert p.poll() is None, 'it ended before'
        found = psutil.Process(p.pid).children(recursive=True)
        return found if any(wanted in ' '.join(_command(c)) for c in found) else None
    return wait_until(below, wanted)

def _command(process):
    try: return process.cmdline()
    except psutil.Error: return []

def _lives(process):
    try: return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess: return False       # it ended between the two questions

def alive(processes): return [c for c in processes if _lives(c)]

PHASES = {
    'artifacts': (['reproduce', '--profile', 'smoke', '--only', 'figure4_surgery'], 'spawn_main'),
    'notebooks': (['reproduce', '--profile', 'smoke', '--only', 'table5_hyperparameters'], 'ipykernel')}

@pytest.mark.parametrize('phase', PHASES)
@pytest.mark.parametrize('number, code', [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)],
                         ids=['SIGTERM', 'SIGINT', 'SIGKILL'])
def test_nothing_is_left_running(tmp_path, phase, number, code):
    arguments, wanted = PHASES[phase]
    env = os.environ | {'VIPANT_RUNS': str(tmp_path/'runs'), 'VIPANT_FIGURES': str(tmp_path/'figures')}
    with (tmp_path/'said').open('w', encoding='utf-8') as said:
        p = subprocess.Popen([VIPANT, *arguments], cwd=ROOT, env=env, stdin=subprocess.DEVNULL,
                             stdout=subprocess.DEVNULL, stderr=said, start_new_session=True)
        try:
            others = started(p, wanted)
            p.send_signal(number)
            assert p.wait(600) == code
        finally:
            if p.poll() is None: os.killpg(p.pid, signal.SIGKILL)
    wait_until(lambda: not alive(others), 'the end of what it had started', 60)
    last = (tmp_path/'said').read_text(encoding='utf-8').strip().splitlines()[-1:]
    if number != signal.SIGKILL: assert last and 'what is finished is kept' in last[0], last
