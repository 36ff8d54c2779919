"""Monty beyond the contract that `test_interpreter` holds: its subset, its limits, its processes."""

from __future__ import annotations

import builtins
import importlib
import os
import signal
import sys
import time

import gymnasium
import pytest

from toolenv.tools.errors import SandboxLost
from toolenv.tools.interpreter import workspace
from toolenv.tools.interpreter.session import Cell
from toolenv.tools.sandbox.interpreters import SandboxUnavailable
from toolenv.tools.sandbox.limits import Limits
from toolenv.tools.sandbox.registry import make_sandbox
from toolenv.tools.toolbox import Toolbox
from toolenv.tools.world import WorldImage, open_connection

pytest.importorskip("pydantic_monty", reason="an extra")

import toolenv.tools.sandbox.monty
from toolenv.tools.sandbox.monty import MontyInterpreters, MontySandbox

TOOLBOX = Toolbox.of_families("interpreter")
IMAGE = workspace.added_to(WorldImage.of_connection(open_connection(), "empty"))
SECONDS = 0.5


@pytest.fixture(scope="module")
def sandbox():
    sandbox = MontySandbox()
    yield sandbox
    sandbox.close()


@pytest.fixture
def hasty():
    """A session whose cells may take SECONDS."""
    sandbox = MontySandbox(Limits(seconds=SECONDS))
    session = sandbox.open(IMAGE, TOOLBOX)
    yield session
    session.close()
    sandbox.close()


@pytest.fixture
def session(sandbox):
    session = sandbox.open(IMAGE, TOOLBOX)
    yield session
    session.close()


def run(session, code):
    result = session.call("run_python", {"code": code})
    assert result.error is None, result.text
    return result.content


@pytest.fixture
def interpreter(sandbox):
    interpreter = sandbox._interpreters.open()
    yield interpreter
    interpreter.close()


def test_every_environment_takes_it_by_name():
    env = gymnasium.make("ToolEnv-CodeInterpreter-v0", sandbox="monty").unwrapped
    env.reset(seed=0)
    assert env.session.call("run_python", {"code": "sum(range(5))"}).content == {"output": "10"}
    env.close()


def test_without_its_package_the_error_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("pydantic_monty"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delitem(sys.modules, toolenv.tools.sandbox.monty.__name__)
    with pytest.raises(SandboxUnavailable, match=r"pip install 'toolenv\[monty\]'"):
        make_sandbox("monty")
    monkeypatch.undo()
    assert importlib.import_module("toolenv.tools.sandbox.monty") is toolenv.tools.sandbox.monty


@pytest.mark.parametrize(
    ("code", "lacks"),
    [
        ("def f():\n    yield 1", "NotImplementedError: The monty syntax parser does not yet support yield"),
        ("class A(Exception): pass", "NotImplementedError: The monty syntax parser does not yet support class inherit"),
        ("x = 1\ndel x", "NotImplementedError: The monty syntax parser does not yet support the 'del' statement"),
        ("import statistics", "ModuleNotFoundError: No module named 'statistics'"),
        ("open('a', 'x')", "ValueError: exclusive creation mode is not supported"),
        ("open('a', 'r+')", r"ValueError: update modes ('+') are not yet supported"),
    ],
)
def test_what_the_subset_lacks_is_an_observation_that_names_it(session, code, lacks):
    said = run(session, code)
    assert said["exception"].startswith(lacks)
    assert said["line"] == code.count("\n") + 1 or "yield" in lacks
    assert run(session, "1") == {"output": "1"}


@pytest.mark.parametrize(
    ("code", "output"),
    [
        ("(1 +\n 2)  # three", "3"),
        ("print('é'); 'ä' * 2", "é\n'ää'"),
        ("1, 2", "(1, 2)"),
        ("*[1], 2", "(1, 2)"),
        ("x = 1\r\nx\r\n", "1"),
        ("'''a\nb''' + \\\n'c'", r"'a\nbc'"),
        ("None", ""),
        ("x = 5", ""),
        ("", ""),
        ("r'\\d', '\\d'", r"('\\d', '\\d')"),
        ("async def f(): return 7\nawait f()", "7"),
        ("{'b', 'a'}", "{'b', 'a'}"),
    ],
)
def test_the_last_expression_s_value_is_shown(interpreter, code, output):
    outcome = interpreter.run(Cell(code))
    assert (outcome.output, outcome.exception) == (output, None)


def test_a_large_value_does_not_come_to_this_process(interpreter):
    outcome = interpreter.run(Cell("'x' * 3_000_000"))
    assert outcome.output.endswith("more characters]")


def test_an_exception_s_line_is_the_cell_s(interpreter):
    interpreter.run(Cell("def f(x):\n    return x.none"))
    outcome = interpreter.run(Cell("\n\nf(1)"))
    assert (outcome.line, outcome.exception) == (3, "AttributeError: 'int' object has no attribute 'none'")
    assert interpreter.run(Cell("a = (")).line == 1
    assert interpreter.run(Cell("(" * 5_000)).exception.startswith("SyntaxError")


def test_a_file_runs_with_variables_of_its_own(session):
    run(session, "x = 1")
    text = "open('out.txt', 'w').write(__name__)\ntry:\n    x\nexcept NameError:\n    print('none')\ny = 2"
    session.call("write_file", {"path": "script.py", "text": text})
    assert session.call("run_python_file", {"path": "script.py"}).content == {"output": "none"}
    assert run(session, "open('out.txt').read(), x") == {"output": "('__main__', 1)"}
    assert run(session, "y")["exception"] == "NameError: name 'y' is not defined"


@pytest.mark.parametrize("text", ["while True: pass", "a = [0]\nwhile True: a = a + a", "1 / 0", "a = ("])
def test_a_file_that_fails_does_so_as_a_cell_does(hasty, text):
    run(hasty, "open('kept.txt', 'w').write('kept')")
    hasty.call("write_file", {"path": "script.py", "text": text})
    assert hasty.call("run_python_file", {"path": "script.py"}).content["exception"]
    assert run(hasty, "open('kept.txt').read()") == {"output": "'kept'"}


def test_clock_and_chance_are_the_same_on_every_run(sandbox):
    code = (
        "import time, datetime, random, os\ntime.sleep(3)\n"
        "print(time.time(), datetime.datetime.now(), datetime.date.today(), os.environ)\n"
        "print(random.random(), random.Random().random(), os.urandom(4), hash('a'), id(random), {'b', 'a', 'c'})"
    )
    outputs = []
    for other in (sandbox, MontySandbox()):
        session = other.open(IMAGE, TOOLBOX)
        outputs.append(run(session, code))
        session.close()
    other.close()
    assert outputs[0] == outputs[1]
    assert outputs[0]["output"].startswith("1773576000.0 2026-03-15 12:00:00 2026-03-15 {}\n0.8444218515250481")


def test_files_work_as_in_the_other_sandboxes(session):
    code = """
import csv, json, os
from pathlib import Path
os.makedirs('a/b')
with open('a/b/c.csv', 'w', newline='') as file:
    csv.writer(file).writerow(['é', 1])
with open('a/b/c.csv', 'a') as file:
    file.write('x,2\\n')
Path('d.json').write_text(json.dumps({'n': 1}))
os.rename('d.json', 'e.json')
open('gone', 'w').close()
os.remove('gone')
open('bytes', 'wb').write(b'\\xff')
print(list(csv.reader(open('a/b/c.csv'))), sorted(os.listdir()), os.path.getsize('e.json'), Path('a/b').is_dir())
[str(path) for path in Path('.').glob('*/*/*.csv')], [line for line in open('e.json')], os.path.exists('no')
"""
    assert run(session, code)["output"].splitlines() == [
        "[['é', '1'], ['x', '2']] ['a', 'bytes', 'e.json'] 8 True",
        "(['a/b/c.csv'], ['{\"n\": 1}'], False)",
        "[bytes is not UTF-8 text, and was not kept]",
    ]
    files = {"files": [{"path": "a/b/c.csv", "bytes": 10}, {"path": "e.json", "bytes": 8}]}
    assert session.call("list_files", {}).content == files


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("open('no.txt')", "FileNotFoundError: [Errno 2] No such file"),
        ("open('/etc/passwd')", "FileNotFoundError: [Errno 2] No such file"),
        ("open('no/a', 'w')", "FileNotFoundError: [Errno 2] No such file"),
        ("import os\nos.mkdir('d')\nopen('d')", "IsADirectoryError: [Errno 21]"),
        ("import os\nos.rmdir('d')\nos.listdir('d')", "FileNotFoundError: [Errno 2]"),
        ("open('a', 'w').write('x' * 1_000_001)", "OSError: [Errno 28] No space left"),
        ("open('b', 'wb').write(b'\\xff')\nopen('b').read()", "ValueError: 'utf-8' codec can't decode"),
    ],
)
def test_a_file_s_errors_are_python_s(interpreter, code, says):
    interpreter.run(Cell("import os\nos.makedirs('d', exist_ok=True)\nos.rmdir('d')"))
    if "rmdir" in code:
        interpreter.run(Cell("os.mkdir('d')"))
    assert interpreter.run(Cell(code)).exception.startswith(says)


def test_a_path_that_no_workspace_has_ends_the_interpreter(session):
    assert "crashed" in run(session, "open('x' * 300, 'w').write('a')")["exception"]
    assert session.call("list_files", {}).content == {"files": []}


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "while True:\n    try:\n        open('none')\n    except OSError: pass",
        "while True: print('x' * 1_000)",
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
    ],
)
def test_time_is_limited_whatever_it_is_spent_on(hasty, code):
    began = time.monotonic()
    assert "TimeoutError" in run(hasty, code)["exception"]
    assert SECONDS <= time.monotonic() - began < SECONDS + 1
    assert run(hasty, "1") == {"output": "1"}


def test_a_timeout_that_code_raises_itself_is_its_exception(session):
    run(session, "x = 1")
    assert run(session, "raise TimeoutError('mine')") == {"output": "", "exception": "TimeoutError: mine", "line": 1}
    assert run(session, "x") == {"output": "1"}


def test_memory_is_limited(session):
    run(session, "x = 1")
    assert run(session, "'x' * 10 ** 9")["exception"].startswith("MemoryError: memory limit exceeded")
    assert run(session, "x") == {"output": "1"}
    said = run(session, "a = [0]\nwhile True: a = a + a")["exception"]
    assert "MemoryError" in said or "crashed" in said
    assert run(session, "1 + 1") == {"output": "2"}


def test_one_that_is_killed_from_outside_is_lost_and_the_next_works(sandbox):
    session = sandbox.open(IMAGE, TOOLBOX)
    run(session, "x = 1")
    os.kill(session._world.python._interpreter._session.worker_pid, signal.SIGKILL)
    with pytest.raises(SandboxLost, match="killed from outside"):
        session.call("run_python", {"code": "x"})
    assert run(session, "x") == {"output": "1"}  # the journal is run again
    session.close()


def test_one_that_crashes_is_an_observation(session):
    run(session, "x = 1")
    os.kill(session._world.python._interpreter._session.worker_pid, signal.SIGTERM)
    assert "crashed" in run(session, "x")["exception"]
    assert "NameError" in run(session, "x")["exception"]


def test_one_that_does_not_start_is_lost(monkeypatch):
    monkeypatch.setenv("MONTY_BIN", "/nowhere/monty")
    interpreters = MontyInterpreters(Limits())
    with pytest.raises(SandboxLost, match="Monty does not start"):
        interpreters.open()
    interpreters.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_a_forked_process_is_refused_and_harms_nothing(sandbox):
    session = sandbox.open(IMAGE, TOOLBOX)
    run(session, "x = 1")
    child = os.fork()
    if not child:
        try:
            for _ in ("the parent's interpreter", "a new one"):
                with pytest.raises(SandboxUnavailable):
                    session.call("run_python", {"code": "x"})
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert run(session, "x") == {"output": "1"}
    session.close()


def test_many_at_once(sandbox):
    sessions = [sandbox.open(IMAGE, TOOLBOX) for _ in range(16)]
    for number, session in enumerate(sessions):
        run(session, f"x = {number}")
    assert [run(session, "x")["output"] for session in sessions] == [str(number) for number in range(16)]
    for session in sessions:
        session.close()
