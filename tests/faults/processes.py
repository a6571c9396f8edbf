"The command as a process of its own: started, watched, stopped, and what it leaves running"
import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
VIPANT = Path(sys.executable).parent/'vipant'
KEPT = 'what is finished is kept'
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -9}

def reproduce(only:str='') -> tuple:
    "The arguments of a smoke run, of all notebooks or of those named"
    return 'reproduce', '--profile', 'smoke', *(('--only', only) if only else ())

def wait_until(done, what, seconds=600):
    "A state, not a time: generous, as the machine may be busy"
    end = time.time() + seconds
    while not (found := done()):
        assert time.time() < end, f'{what} did not come within {seconds} s'
        time.sleep(.1)
    return found

def _lives(process):
    try: return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess: return False       # it ended between the two questions

def alive(processes): return [p for p in processes if _lives(p)]

def _is_of(process, runs):
    "Was the process started for the folder of runs, by whomever? Its environment is inherited, its parent may be gone"
    try: return process.environ().get('VIPANT_RUNS') == runs
    except psutil.Error: return False

def of_runs(folder) -> list:
    "All processes that work in the folder of runs"
    return [p for p in psutil.process_iter() if p.pid != os.getpid() and _is_of(p, str(folder))]

def _hear_ctrl_c():
    "A shell's background jobs ignore Ctrl-C, and so would what they start"
    signal.signal(signal.SIGINT, signal.SIG_DFL)

@dataclass
class Run:
    "`vipant` with `arguments` in the folder `home`, which takes its runs, figures and what it says"
    home: Path
    arguments: tuple = reproduce()
    name: str = 'said'
    runs: Path | None = None
    extra: dict | None = None       # of its environment

    def __enter__(self):
        self.runs = self.runs or self.home/'runs'
        self.said = self.home/self.name
        own = dict(VIPANT_RUNS=str(self.runs), VIPANT_FIGURES=str(self.runs.with_name('figures')))
        self.begun = time.time()
        with self.said.open('w', encoding='utf-8') as said:
            self.p = subprocess.Popen([VIPANT, *self.arguments], cwd=ROOT, env=os.environ | own | (self.extra or {}),
                                      stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said,
                                      start_new_session=True, preexec_fn=_hear_ctrl_c)
        return self

    def stop(self, number, group=False):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.p.pid, number) if group else self.p.send_signal(number)

    def last_line(self) -> str:
        "What was said last; the times of imports, which some tests ask for, left out"
        lines = self.said.read_text(encoding='utf-8').replace('\r', '\n').strip().splitlines()
        return ([''] + [line for line in lines if not line.startswith('import time:')])[-1]

    def __exit__(self, *_):
        for p in [psutil.Process(self.p.pid)] if self.p.poll() is None else []: p.kill()
        self.p.wait()
        for p in of_runs(self.runs):
            with contextlib.suppress(psutil.Error): p.kill()
