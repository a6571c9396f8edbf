"""Whoever is told to stop says so and leaves no process behind; whoever is killed leaves none either"""
import re
import signal

import psutil
import pytest

from faults.kills import left_running
from faults.processes import CODES, KEPT, Run, wait_until


def command(process):
    try: return ' '.join(process.cmdline())
    except psutil.Error: return ''

def started(run, wanted):
    "Has one of the processes below the run `wanted` in its command line?"
    assert run.p.poll() is None, f'it ended before: {run.last_line()}'
    return any(wanted in command(c) for c in psutil.Process(run.p.pid).children(recursive=True))

def imported(run, wanted):
    "Has the run imported the module `wanted`?"
    assert run.p.poll() is None, f'it ended before: {run.last_line()}'
    return re.search(rf'\| +{wanted}\n', run.said.read_text(encoding='utf-8'))

PHASES = {
    'first_import': ('figure4_surgery', imported, 'vipant'), 'imports': ('figure4_surgery', imported, 'fastcore.utils'),
    'commands_imports': ('figure4_surgery', imported, 'vipant.engine.config'),
    'artifacts': ('figure4_surgery', started, 'spawn_main'),
    'notebooks': ('table5_hyperparameters', started, 'ipykernel')}

@pytest.mark.parametrize('phase', PHASES)
@pytest.mark.parametrize('number', CODES, ids=lambda n: n.name)
def test_nothing_is_left_running(tmp_path, phase, number):
    only, come, wanted = PHASES[phase]
    times = dict(PYTHONPROFILEIMPORTTIME='1') if come is imported else {}
    with Run(tmp_path, ('reproduce', '--profile', 'smoke', '--only', only), extra=times) as run:
        wait_until(lambda: come(run, wanted), wanted)
        run.stop(number)
        assert run.p.wait(600) == CODES[number]
        assert not left_running(run)
        if number != signal.SIGKILL: assert KEPT in run.last_line()
