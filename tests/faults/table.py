"The table of what was tried and what came of it"
import csv
import re

from faults.processes import ROOT
from vipant.engine.runtime import write_text, write_whole

NUMBERS = 'tried', 'clear', 'accepted', 'tracebacks', 'hangs', 'lost', 'left'
FAULTS = NUMBERS[3:]        # of which there may be none
SHOWN = 'tried', 'clear lines', 'accepted', 'tracebacks', 'hangs', 'lost', 'processes left'
NOTE = '''Made by `make faults`. Clear lines: of an input, one line that names the file; of a run that was killed or
cannot write, the last line and the exit code as they should be (of SIGKILL: the code); of runs at once, those that came
to their end. Lost: an input with which its process died, or what was finished before and is not there, or otherwise,
afterwards.'''
FOLDER = ROOT/'figures'/'bench'

def row(kind:str, **numbers) -> dict: return dict(kind=kind) | {k: int(numbers.get(k, 0)) for k in NUMBERS}

def read_rows() -> list:
    path = FOLDER/'faults.csv'
    if not path.is_file(): return []
    with path.open(encoding='utf-8', newline='') as f: return [row(**r) for r in csv.DictReader(f)]

def total(rows) -> dict: return row('all', **{k: sum(r[k] for r in rows) for k in NUMBERS})

def _line(r) -> str: return f'| {r["kind"]} | ' + ' | '.join(str(r[k]) for k in NUMBERS) + ' |'

def fill_readme():
    "Put the sums into README.md"
    path = ROOT/'README.md'
    write_text(path, re.sub(r'^\| all \|.*$', _line(total(read_rows())), path.read_text(encoding='utf-8'), flags=re.M))

def write_rows(new:list):
    "Put rows into faults.csv, each in the place of the one of its kind, and the table with its sums into faults.md"
    rows = {r['kind']: r for r in read_rows()} | {r['kind']: r for r in new}
    def write(part):
        with open(part, 'w', encoding='utf-8', newline='') as f:
            out = csv.DictWriter(f, ['kind', *NUMBERS], lineterminator='\n')
            out.writeheader()
            out.writerows(rows.values())
    write_whole(FOLDER/'faults.csv', write)
    lines = ['| kind | ' + ' | '.join(SHOWN) + ' |', '| --- '*(1 + len(NUMBERS)) + '|']
    lines += [_line(r) for r in [*rows.values(), total(rows.values())]]
    write_text(FOLDER/'faults.md', '\n'.join(lines) + '\n\n' + NOTE + '\n')
