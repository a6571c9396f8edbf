"""make faults: kills, runs at once, full disks and spoiled inputs, counted in a table

    make faults [PARTS='inputs kills together disks'] [FOLDER=FOLDER]
    PYTHONPATH=tests python -m faults [inputs] [kills] [together] [disks] [--folder FOLDER] [--seed N]

Without names all of it. A part that is run alone renews its own rows of figures/bench/faults.csv. `--folder` keeps the
runs, and the undisturbed ones are not made again.
"""
import argparse
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path

from faults import kills
from faults.processes import ROOT, Run, reproduce
from faults.table import FAULTS, fill_readme, row, write_rows

KILLS, SPOILED = 10, 60      # a phase; a kind of input
CUT = 'table3_retrieval,table5_hyperparameters'     # what several runs at once, and those whose disk is full, make

def undisturbed(base:Path, only:str='') -> Path:
    "A smoke run from nothing, of all notebooks or of those named"
    home = base/('cut' if only else 'whole')
    if not kills.results(home):
        print(f'a run that nothing disturbs, of {only or "all notebooks"}', flush=True)
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        with Run(home, reproduce(only)) as run: run.p.wait()
        assert run.p.returncode == 0, run.last_line()
    return home

def copy_of(whole:Path, name:str) -> Path:
    "Another run, as far as the whole one has come"
    to = whole.with_name(name)
    shutil.rmtree(to, ignore_errors=True)
    return Path(shutil.copytree(whole, to))

def do_inputs(base, seed, say):
    from faults.inputs import KINDS
    from faults.spoiling import spoil
    found = spoil(list(KINDS), SPOILED, seed, say)
    return [row(kind, tried=sum(c.values()), clear=c['clear line'], accepted=c['accepted'], tracebacks=c['traceback'],
                hangs=c['hang'], lost=c['lost']) for kind, c in found.items()]

def do_kills(base, seed, say):
    whole = undisturbed(base)
    home, rows = copy_of(whole, 'killed'), []
    for phase in ('notebooks', 'scores', 'stores', 'trainings', 'data', 'start'):
        kills.forget(home/'runs', phase)
        c = kills.kill_phase(home, phase, KILLS, seed, say)
        rows.append(row(f'kill, {phase}', tried=c['tried'], clear=c['clear'], tracebacks=c['unclear'], lost=c['lost'],
                        left=c['left']))
        write_rows(rows)
    wrong = kills.finish(home, whole, say)
    return [*rows, row('the killed run, at its end', tried=1, clear=not wrong, lost=len(wrong))]

def do_together(base, seed, say):
    whole, rows = undisturbed(base, CUT), []
    for n, phases in ((2, ('data', 'stores', 'scores', 'notebooks')), (3, ('trainings',))):
        home = copy_of(whole, f'together{n}')
        for phase in phases: kills.forget(home/'runs', phase)
        wrong, left = kills.together(home, n, CUT, say)
        lost = kills.differences(home, whole)
        say(f'{n} at once, afterwards: {"; ".join(lost) or "all as undisturbed"}')
        rows.append(row(f'{n} runs at once', tried=n, clear=n - len(wrong), tracebacks=len(wrong), lost=len(lost),
                        left=len(left)))
    return rows

def do_disks(base, seed, say):
    from faults.disks import rows_of_disks
    return rows_of_disks(undisturbed(base, CUT), say)

PARTS = dict(inputs=do_inputs, disks=do_disks, together=do_together, kills=do_kills)

def main() -> int:
    parser = argparse.ArgumentParser(prog='faults', description=__doc__.splitlines()[0])
    parser.add_argument('parts', nargs='*', choices=[*PARTS, []])
    parser.add_argument('--folder', type=Path)
    parser.add_argument('--seed', type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix='vipant-faults-') as own:
        rows = []
        for part in given.parts or PARTS:
            rows += PARTS[part](given.folder or Path(own), given.seed, partial(print, flush=True))
            write_rows(rows)
    fill_readme()
    print((ROOT/'figures/bench/faults.md').read_text(encoding='utf-8'))
    return int(any(r[k] for r in rows for k in FAULTS))

if __name__ == '__main__': sys.exit(main())
