"A disk that is full, and one that cannot be written, in a folder in memory"
import contextlib
import os
import shutil
import subprocess
from pathlib import Path

from faults.kills import differences, forget, left_running
from faults.processes import Run, reproduce
from faults.table import row

# What is made again, the notebook that asks for it, and the bytes that the disk has left then: too few for all of it
PHASES = {'stores': ('table3_retrieval', 1_000_000), 'trainings': ('table3_retrieval', 7_500_000),
          'notebooks': ('table5_hyperparameters', 0)}
SIZE = '300m'       # of the disk: the runs and tables of a smoke run are a third of it

@contextlib.contextmanager
def small_disk(folder:Path, size:str=SIZE):
    "A tmpfs in `folder`; OSError where one may not be mounted"
    folder.mkdir()
    try: done = subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={size}', 'tmpfs', str(folder)],
                               capture_output=True, text=True)
    except FileNotFoundError as e: raise OSError(f'no tmpfs can be mounted here: {e}') from None
    if done.returncode: raise OSError(f'no tmpfs can be mounted here: {done.stderr.strip()}')
    try: yield folder
    finally:
        subprocess.run(['umount', '-l', str(folder)], check=True)
        folder.rmdir()

def _fill(disk:Path, left:int):
    "Fill the disk, but for `left` bytes"
    free = os.statvfs(disk)
    with open(disk/'ballast', 'wb') as f: os.posix_fallocate(f.fileno(), 0, free.f_bavail*free.f_bsize - left)

def _remount(disk, how): subprocess.run(['mount', '-o', f'remount,{how}', str(disk)], check=True)

def refused(disk:Path, log:Path, only:str, says:str) -> list:
    "What is wrong with the end of a run that cannot write"
    with Run(log, reproduce(only), runs=disk/'runs') as run:
        code, wrong = run.p.wait(), left_running(run)
        last = run.last_line()
    if code != 1: wrong.append(f'exit code {code}')
    if not (last.startswith('vipant reproduce: ') and says in last.lower()): wrong.append(f'last line: {last[:300]}')
    return wrong

def goes_on(disk:Path, log:Path, only:str, whole:Path) -> list:
    "What is wrong with the next run, when there is room again"
    with Run(log, reproduce(only), runs=disk/'runs') as run: run.p.wait()
    wrong = [] if run.p.returncode == 0 else [f'exit code {run.p.returncode}: {run.last_line()}']
    return wrong + differences(disk, whole)

def full(base:Path, whole:Path, phase:str, say) -> dict:
    with small_disk(base/'disk') as disk:
        for part in ('runs', 'figures'): shutil.copytree(whole/part, disk/part)
        forget(disk/'runs', phase)
        only, left = PHASES[phase]
        _fill(disk, left)
        said = refused(disk, base, only, 'no space left')
        (disk/'ballast').unlink()
        after = goes_on(disk, base, only, whole)
    say(f'disk full, {phase}: {"; ".join(said + after) or "one line, and it went on"}')
    return row(f'disk full, {phase}', tried=1, clear=not said, tracebacks=bool(said), lost=len(after))

def read_only(base:Path, whole:Path, say) -> dict:
    with small_disk(base/'disk') as disk:
        for part in ('runs', 'figures'): shutil.copytree(whole/part, disk/part)
        forget(disk/'runs', 'notebooks')
        _remount(disk, 'ro')
        only, _ = PHASES['notebooks']
        said = refused(disk, base, only, 'read-only')
        _remount(disk, 'rw')
        after = goes_on(disk, base, only, whole)
    say(f'read-only folder: {"; ".join(said + after) or "one line, and it went on"}')
    return row('read-only folder', tried=1, clear=not said, tracebacks=bool(said), lost=len(after))

def rows_of_disks(whole:Path, say) -> list:
    base = whole.with_name('disks')
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir()
    try: return [full(base, whole, phase, say) for phase in PHASES] + [read_only(base, whole, say)]
    except OSError as e:
        say(f'full disks and read-only folders are skipped: {e}')
        return []
