"A smoke run that is killed again and again, several at once, and one whose disk is full"
import contextlib
import random
import re
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

from faults.processes import CODES, KEPT, Run, alive, of_runs, reproduce, wait_until

# What a run does, in its order: a word for it, and the names of what is made then
PHASES = {
    'start': (), 'data': ('world',), 'stores': ('log_mel', 'norms', 'frames', 'texts', 'pairs'),
    'trainings': ('towers', 'language_model', 'free_captions', 'va-', 'at-', 'vat-', 'supervised', 'tagging'),
    'scores': ('scores', 'epochs', 'va_hits', 'pivots'), 'notebooks': ()}
SPREAD = dict(start=6., data=12., stores=8., trainings=12., scores=12., notebooks=15.)      # s, after its beginning
ENDED = 60          # s until whatever a killed run had started is gone; 5 on a machine with nothing else to do

def artifacts(runs:Path) -> dict:
    "Name -> when it was made, of all that is finished"
    found = (p for p in runs.glob('smoke/*/provenance.json') if not p.parent.name.startswith('.'))
    return {p.parent.name: p.stat().st_mtime_ns for p in found}

def phase_of(name:str) -> str:
    return next((phase for phase, begins in PHASES.items() if name.startswith(begins)), '') if name else ''

def under_way(runs:Path, since:float) -> set:
    "The phases of which something was begun since then and is not finished"
    logs, notes = list(runs.glob('smoke/logs/*.log')), list(runs.glob('smoke/notebooks/*.log'))
    fresh = [p for p in logs if p.stat().st_mtime >= since]
    made = artifacts(runs)
    found = {phase_of(p.stem) for p in fresh if p.stem not in made and p.name[:-4] not in made}
    if any(p.stat().st_mtime >= since for p in notes): found.add('notebooks')
    return found or ({'start'} if not fresh else {'between'})

def forget(runs:Path, phase:str):
    "Take away what a phase has made, so that it is made again"
    for name in artifacts(runs):
        if phase_of(name) == phase: shutil.rmtree(runs/'smoke'/name)
    if phase == 'notebooks':
        for p in runs.glob('smoke/notebooks/*.json'): p.unlink()
    for p in runs.glob('smoke/reproduced*.json'): p.unlink()

def _begun(run, phase):
    "Has the phase begun, or the run ended?"
    if run.p.poll() is not None: return True
    if phase == 'start': return re.search(r'\| +vipant\n', run.said.read_text(encoding='utf-8'))
    return phase in under_way(run.runs, run.begun)

def killed(run, phase, number, group, wait) -> str:
    "The phase in which it was killed; 'finished' if it came to its end before"
    wait_until(lambda: _begun(run, phase), phase, 1800)
    end = time.time() + wait
    while time.time() < end and run.p.poll() is None: time.sleep(.01)
    if run.p.poll() is not None: return 'finished'
    at = under_way(run.runs, run.begun)
    run.stop(number, group)
    if run.p.wait(1800) == 0: return 'finished'
    return phase if phase in at else sorted(at)[0]

def end_of(run, at, number) -> list:
    "What is wrong with how a killed run, or one that came to its end, has ended"
    code, last = run.p.returncode, run.last_line()
    if at == 'finished': return [] if code == 0 else [f'ended by itself, exit code {code}: {last[:300]}']
    wrong = [] if code == CODES[number] else [f'exit code {code}']
    return wrong + ([] if number == signal.SIGKILL or KEPT in last else [f'last line: {last[:300]}'])

def left_running(run) -> list:
    "Those of its processes that do not end, as command lines"
    end = time.time() + ENDED
    while (left := alive(of_runs(run.runs))) and time.time() < end: time.sleep(.1)
    return [' '.join(p.cmdline())[:200] for p in left if p.is_running()]

def kill_phase(home:Path, phase:str, n:int, seed:int, say=print) -> Counter:
    "Kill the run in `home` `n` times in a phase; counts, a name an outcome"
    r, counts, runs, k = random.Random(f'{seed} {phase}'), Counter(), home/'runs', 0
    while k < n:
        number, group = list(CODES)[k % 3], k//3 % 2 == 1
        made = artifacts(runs)
        with Run(home, extra=dict(PYTHONPROFILEIMPORTTIME='1') if phase == 'start' else {}) as run:
            at = killed(run, phase, number, group, r.uniform(0, SPREAD[phase]))
            left = left_running(run)
            wrong = end_of(run, at, number)
        lost = [name for name, when in made.items() if artifacts(runs).get(name) != when]
        if at == 'finished': forget(runs, phase)
        k += at == phase
        counts += Counter({at: 1, 'tried': at != 'finished', 'left': len(left), 'lost': len(lost),
                           'unclear': bool(wrong), 'clear': not wrong and at != 'finished'})
        line = f'{k:3} {phase}: {number.name}{" to all"*group} in {at}'
        say(f'{line}; {"; ".join([*wrong, *left, *lost]) or "as it should be"}')
    return counts

def finish(home:Path, whole:Path, say=print) -> list:
    "Let the run in `home` come to its end; what is not as in the undisturbed run in `whole`"
    with Run(home) as run: run.p.wait()
    wrong = [] if run.p.returncode == 0 else [f'exit code {run.p.returncode}: {run.last_line()}']
    wrong += differences(home, whole)
    say(f'came to its end: {"; ".join(wrong) or "all as undisturbed"}')
    return wrong

def _tables(home) -> Path: return home/'figures'/'smoke-1seed'

def results(home:Path) -> bytes:
    path = _tables(home)/'results.csv'
    return path.read_bytes() if path.is_file() else b''

def differences(home:Path, whole:Path) -> list:
    "What is otherwise than in the undisturbed run"
    wrong = [] if results(home) and results(home) == results(whole) else ['results.csv differs']
    ours, theirs = ({p.name for p in _tables(h).iterdir()} if _tables(h).is_dir() else set() for h in (home, whole))
    wrong += [f'{name} is missing' for name in sorted(theirs - ours)]
    return wrong + ([f'{name} was made twice' for name in twice(home)])

def twice(home:Path) -> list:
    "What was built although it was there: the first one was put aside"
    return sorted(p.name for p in (home/'runs'/'smoke'/'.old').glob('*'))

def together(home:Path, n:int, only:str, say=print) -> tuple[list, list]:
    "`n` runs at once in one folder; what is wrong with their ends, and which of their processes do not end"
    with contextlib.ExitStack() as all_runs:
        runs = [all_runs.enter_context(Run(home, reproduce(only), name=f'said{k}')) for k in range(n)]
        for run in runs: run.p.wait()
        wrong = [f'exit code {r.p.returncode}: {r.last_line()}' for r in runs if r.p.returncode]
        left = left_running(runs[0])
    say(f'{n} at once: {"; ".join(wrong + left) or "all came to their end"}')
    return wrong, left
