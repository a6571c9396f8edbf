"Inputs spoiled at random, with a seed, each read in a child process with an end to its time and memory"
import contextlib
import io
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

CPU, MEMORY = 60, 4*2**30       # of one input: s of computing, bytes above what the child has at its start
ODD_NUMBERS = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1, 2**15, 255)
ODD_WORDS = (b'', b'nan', b'-1', b'9'*25, b'1e309', b'"', b'\0', b'\xe9', b'\n', b'\r', b',', b'../../x', b'[', b'{',
             b'null', b'true', b'\xff\xfe', b'['*5000, b'A'*70000, '\u202e\u0301'.encode())

# Ways to spoil: each takes the bytes and a random.Random

def _at(data, r): return r.randrange(len(data)) if data else 0

def flipped(data, r):
    found = bytearray(data)
    for _ in range(r.choice((1, 1, 2, 5, 20)) if data else 0): found[_at(data, r)] ^= 1 << r.randrange(8)
    return bytes(found)

def cut(data, r): return data[:_at(data, r)]

def holed(data, r):
    at = _at(data, r)
    return data[:at] + data[at + r.choice((1, 3, 100, 1000)):]

def inserted(data, r):
    at = _at(data, r)
    return data[:at] + r.randbytes(r.choice((1, 4, 64, 1000))) + data[at:]

def doubled(data, r):
    at, n = _at(data, r), r.choice((1, 10, 100, 5000))
    return data[:at] + data[at:at + n]*2 + data[at + n:]

def zeroed(data, r):
    at, n = _at(data, r), r.choice((4, 50, 1000))
    return data[:at] + bytes(len(data[at:at + n])) + data[at + n:]

def numbered(data, r):
    "Another number in the first or last 256 bytes, where headers and footers have theirs"
    size, order = r.choice((1, 2, 4, 8)), r.choice(('little', 'big'))
    at = r.randrange(min(256, len(data) or 1))
    if r.random() < .4: at = max(0, len(data) - at - size)
    number = r.choice(ODD_NUMBERS) % 2**(8*size)
    return data[:at] + number.to_bytes(size, order) + data[at + size:]

def worded(data, r):
    "Another word in the place of one"
    words = [m.span() for m in re.finditer(rb'[^\s,":\[\]{}]+', data[:20_000])]
    begin, end = r.choice(words) if words else (0, 0)
    return data[:begin] + r.choice(ODD_WORDS) + data[end:]

def another(data, r): return r.choice((b'', b'\n', b'RIFF', b'PK\3\4', b'\x89PNG\r\n\x1a\n', b'{}', b'[]', bytes(4096)))

WAYS = (flipped, flipped, cut, cut, holed, inserted, doubled, zeroed, numbered, numbered, numbered, worded, another)
TEXT_WAYS = (flipped, cut, holed, inserted, doubled, numbered, worded, worded, worded, worded, another)

def spoiled(data:bytes, seed:str, text:bool) -> bytes:
    "`data` spoiled in one way, sometimes in two"
    r = random.Random(seed)
    for _ in range(r.choice((1, 1, 1, 2))): data = r.choice(TEXT_WAYS if text else WAYS)(data, r)
    return data

# In the child

def outcome(error, names) -> str:
    "'clear line' for an error that says in one line which file is meant, else 'traceback'"
    text = str(error)
    ours = isinstance(error, (ValueError, OSError, RuntimeError)) and not isinstance(error, AssertionError)
    return 'clear line' if ours and '\n' not in text and any(n in text for n in names) else 'traceback'

def attempt(kind, whole:Path, folder:Path, seed:str) -> tuple[str, str]:
    "(outcome, what was said) of one spoiled copy of the input in `whole`"
    from faults.inputs import KINDS
    r = random.Random(f'{seed} file')
    shutil.copytree(whole, folder)
    file = folder/r.choice(KINDS[kind].files)
    data = file.read_bytes()
    file.write_bytes(spoiled(data, seed, file.suffix in ('.csv', '.json')))
    os.environ |= dict(VIPANT_RUNS=str(folder/'runs'), VIPANT_FIGURES=str(folder/'figures'))
    try: KINDS[kind].read(folder)
    except Exception as e: return outcome(e, (file.name, str(folder))), f'{type(e).__name__}: {e}'[:400]
    finally: shutil.rmtree(folder)
    return 'accepted', ''

def whole_input(kind, base:Path) -> Path:
    "The folder below `base` with the whole input of a kind"
    from faults.inputs import KINDS
    folder = base/kind
    if not folder.exists():
        folder.mkdir()
        os.environ |= dict(VIPANT_RUNS=str(folder/'runs'), VIPANT_FIGURES=str(folder/'figures'))
        KINDS[kind].make(folder)
    return folder

def child(names:list, first:int, n:int, seed:int, folder:str):
    "Read `n` spoiled inputs of each kind, from the `first` of all on; its number before each, after it what came out"
    out, base = os.fdopen(os.dup(1), 'w'), Path(tempfile.mkdtemp(dir=folder))
    os.dup2(2, 1)       # what readers print is no answer
    limit = psutil.Process().memory_info().vms + MEMORY
    for k in range(first, n*len(names)):
        kind = names[k//n]
        whole = whole_input(kind, base)
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        print(k, file=out, flush=True)
        with contextlib.redirect_stdout(io.StringIO()):
            found = attempt(kind, whole, base/'spoiled', f'{seed} {kind} {k%n}')
        print(json.dumps(found), file=out, flush=True)

# In the parent

def _cpu(process) -> float:
    try: return sum(process.cpu_times()[:2])
    except psutil.Error: return 0.

def _watched(p, said) -> bool:
    "Wait for the child `p`; True if it was killed, as one input had taken it CPU seconds"
    process, begun, seen = psutil.Process(p.pid), 0., -1
    while p.poll() is None:
        if (size := said.stat().st_size) != seen: begun, seen = _cpu(process), size
        if _cpu(process) - begun > CPU:
            p.kill()
            p.wait()
            return True
        time.sleep(.05)
    return False

def spoil(names:list, n:int, seed=0, say=print) -> dict:
    "Kind -> (outcome -> number), of `n` spoiled inputs of each of the kinds; says what should not be"
    counts, at = {kind: Counter() for kind in names}, 0
    def note(k, found, what):
        counts[names[k//n]][found] += 1
        if found not in ('clear line', 'accepted'): say(f'{names[k//n]}, input {k%n}: {found}: {what}')
    with tempfile.TemporaryDirectory(prefix='vipant-faults-') as folder:
        said, log = Path(folder)/'said', Path(folder)/'log'
        while at < n*len(names):
            command = [sys.executable, '-m', 'faults.spoiling', json.dumps(names), str(at), str(n), str(seed), folder]
            with said.open('wb') as out, log.open('wb') as err:
                p = subprocess.Popen(command, stdout=out, stderr=err, stdin=subprocess.DEVNULL, env=_environment())
                hung = _watched(p, said)
            lines = said.read_text(encoding='utf-8').splitlines()
            if not lines: raise RuntimeError(f'the child does not begin: {log.read_text(encoding="utf-8")[-2000:]}')
            for k, answer in zip(lines[::2], lines[1::2]): note(int(k), *json.loads(answer))
            at += len(lines)//2
            if len(lines)%2:        # it ended, or was ended, in the middle of one
                note(at, 'hang' if hung else 'lost', f'exit code {p.returncode}')
                at += 1
    return counts

def _environment():
    tests = Path(__file__).resolve().parents[1]
    return os.environ | dict(PYTHONPATH=os.pathsep.join(map(str, (tests, tests.parent))), HF_HUB_OFFLINE='1',
                             TQDM_DISABLE='1')

if __name__ == '__main__':
    names, *numbers, folder = sys.argv[1:]
    child(json.loads(names), *map(int, numbers), folder)
