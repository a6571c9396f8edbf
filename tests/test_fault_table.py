"The short form of `make faults`: the same kills and spoiled inputs, fewer of them"
import pytest

from faults.inputs import KINDS
from faults.kills import kill_phase
from faults.processes import ROOT
from faults.spoiling import ODD_WORDS, attempt, outcome, spoiled, whole_input
from faults.table import FAULTS, FOLDER, NUMBERS, read_rows, total


def test_spoiled_inputs_are_one_line_or_taken(tmp_path, monkeypatch):
    "Read here, where what the readers need is imported; only `make faults` ends each that takes too much"
    monkeypatch.setenv('VIPANT_RUNS', '')       # both are put back as they were, too
    monkeypatch.setenv('VIPANT_FIGURES', '')
    found = {(kind, k): attempt(kind, whole_input(kind, tmp_path), tmp_path/'spoiled', f'0 {kind} {k}')
             for kind in KINDS for k in range(5)}
    assert not {at: said for at, (what, said) in found.items() if what not in ('clear line', 'accepted')}
    assert {what for what, _ in found.values()} == {'clear line', 'accepted'}

def test_what_is_spoiled_is_spoiled_again_the_same_way():
    data = bytes(range(256))*20
    found = [spoiled(data, f'{k}', text) for k in range(60) for text in (False, True)]
    assert found == [spoiled(data, f'{k}', text) for k in range(60) for text in (False, True)]
    assert len(set(found)) > 90 and all(spoiled(b'', f'{k}', True) is not None for k in range(60)) and ODD_WORDS

@pytest.mark.parametrize('error, found', (
    (ValueError('x.csv, row 3: no'), 'clear line'), (ValueError('row 3: no'), 'traceback'),
    (KeyError('x.csv'), 'traceback'), (ValueError('x.csv\nno'), 'traceback'), (AssertionError('x.csv'), 'traceback')))
def test_what_a_clear_line_is(error, found): assert outcome(error, ('x.csv',)) == found

def test_a_run_that_is_killed_at_its_start_goes_on(tmp_path):
    counts = kill_phase(tmp_path, 'start', 6, seed=0)
    assert counts['clear'] == counts['tried'] >= 6 and not counts['left'] + counts['lost']

def test_the_table_in_the_project_has_no_fault_and_readme_its_sums():
    rows, readme = read_rows(), (ROOT/'README.md').read_text(encoding='utf-8')
    sums = total(rows)
    assert rows and not [r for r in rows if any(r[k] for k in FAULTS)]
    line = '| all | ' + ' | '.join(str(sums[k]) for k in NUMBERS) + ' |'
    assert line in readme and line in (FOLDER/'faults.md').read_text(encoding='utf-8')
    assert set(KINDS) <= {r['kind'] for r in rows}
