"""The interpreter's contract, on every backend that runs it; and its tools."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from toolenv.tools.interpreter import workspace
from toolenv.tools.sandbox.contract import Sandbox
from toolenv.tools.sandbox.docker_sandbox import DockerSandbox, PoolSettings
from toolenv.tools.sandbox.embedded import EmbeddedSandbox
from toolenv.tools.sandbox.interpreters import SandboxUnavailable
from toolenv.tools.sandbox.limits import Limits
from toolenv.tools.toolbox import Toolbox
from toolenv.tools.world import WorldImage, open_connection

TOOLBOX = Toolbox.of_families("interpreter")
IMAGE = workspace.added_to(WorldImage.of_connection(open_connection(), "empty"))
SECONDS = 0.5


def monty() -> Sandbox:
    from toolenv.tools.sandbox.monty import MontySandbox  # an extra: SandboxUnavailable without it

    return MontySandbox(Limits(seconds=SECONDS))


BACKENDS = {
    "embedded": lambda: EmbeddedSandbox(Limits(seconds=SECONDS)),
    "docker": lambda: DockerSandbox(Limits(seconds=SECONDS), pool=PoolSettings(warm=0, most=1)),
    "monty": monty,
}
"""Name -> a sandbox whose cells may take SECONDS; every one of them keeps the contract."""


@pytest.fixture(scope="module", params=BACKENDS)
def sandbox(request) -> Iterator[Sandbox]:
    try:
        sandbox = BACKENDS[request.param]()
        session = sandbox.open(IMAGE, TOOLBOX)
        session.call("run_python", {"code": "1"})
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    session.close()
    yield sandbox
    sandbox.close()


BEYOND_MONTY = {
    "test_clock_and_chance_are_the_same_on_every_run": "no uuid, secrets, tempfile, os.getpid and object()",
    "test_a_file_runs_with_variables_of_its_own": "no globals()",
}
"""Test -> what its code needs and Monty's subset of Python lacks. `test_monty` tests the same without."""


@pytest.fixture(autouse=True)
def beyond_monty(request) -> None:
    if "monty" in request.node.name and (lacks := BEYOND_MONTY.get(request.node.originalname)):
        request.applymarker(pytest.mark.xfail(reason=lacks, strict=True))


@pytest.fixture
def session(sandbox):
    session = sandbox.open(IMAGE, TOOLBOX)
    yield session
    session.close()


def call(session, name, /, **arguments):
    result = session.call(name, arguments)
    assert result.error is None, result.text
    return result.content


def run(session, code):
    return call(session, "run_python", code=code)


def test_variables_and_definitions_are_kept_from_cell_to_cell(session):
    assert run(session, "x = 20\ndef double(n): return 2 * n") == {"output": ""}
    assert run(session, "print('is'); double(x)") == {"output": "is\n40"}


def test_an_exception_is_a_result_with_its_line_and_keeps_the_variables(session):
    said = run(session, "x = 1\nprint('before')\n{}['amount']")
    assert said == {"output": "before", "exception": "KeyError: 'amount'", "line": 3}
    assert run(session, "x") == {"output": "1"}
    assert run(session, "a = (")["line"] == 1


@pytest.mark.parametrize("text", ["é", "日本語", "\U0001f40d", "a\u0301", "\u202e", "\x00"])
def test_unicode_comes_back_as_it_was(session, text):
    assert run(session, f"print({text!r})")["output"] == text
    assert run(session, f"open('a.txt', 'w').write({text!r} * 3)")["output"] == str(3 * len(text))
    assert call(session, "read_file", path="a.txt")["text"].startswith(text)


def test_long_output_is_cut_and_says_by_how_much(session):
    output = run(session, "print('x' * 5_000)")["output"]
    assert output == "x" * 4_000 + "\n[1001 more characters]"


def test_a_timeout_loses_variables_and_keeps_files(session):
    run(session, "x = 1\nopen('a.txt', 'w').write('kept')")
    began = time.monotonic()
    said = run(session, "open('a.txt', 'w').write('lost')\nwhile True: pass")
    assert time.monotonic() - began < SECONDS + 0.5
    assert "TimeoutError" in said["exception"]
    assert run(session, "x")["exception"] == "NameError: name 'x' is not defined"
    assert run(session, "open('a.txt').read()") == {"output": "'kept'"}


def test_a_snapshot_brings_variables_and_files_back(session):
    run(session, "x = [1]\nopen('a.txt', 'w').write('1')")
    taken, digest = session.snapshot(), session.digest()
    run(session, "x.append(2)\nopen('a.txt', 'w').write('2')")
    assert session.digest() != digest
    session.restore(taken)
    assert session.digest() == digest
    assert session.snapshot() == taken
    assert run(session, "x, open('a.txt').read()") == {"output": "([1], '1')"}


def test_a_fork_goes_on_with_the_same_variables_and_leaves_the_original_alone(session):
    run(session, "x = [1]\nimport random\nr = random.random()")
    fork = session.fork()
    assert fork.digest() == session.digest()
    same = "x, r, random.random()"
    assert run(fork, same) == run(session, same)
    assert fork.digest() == session.digest()
    run(fork, "x.append(2)\nopen('a.txt', 'w').write('fork')")
    assert run(session, "x") == {"output": "[1]"}
    assert call(session, "list_files") == {"files": []}
    fork.close()


def test_files_written_between_cells_are_replayed_in_their_place(session):
    call(session, "write_file", path="a.txt", text="1")
    run(session, "first = open('a.txt').read()")
    call(session, "write_file", path="a.txt", text="2")
    run(session, "second = open('a.txt').read()\nimport os\nos.remove('a.txt')")
    call(session, "write_file", path="b.txt", text="3")
    fork = session.fork()
    assert run(fork, "first, second, os.listdir()") == {"output": "('1', '2', ['b.txt'])"}
    fork.close()


def test_clock_and_chance_are_the_same_on_every_run(sandbox):
    code = (
        "import time, datetime, random, uuid, secrets, os, tempfile\n"
        "time.sleep(3)\n"
        "print(time.time(), datetime.datetime.now(), datetime.date.today(), random.random())\n"
        "print(random.Random().random())\n"
        "print(uuid.uuid4(), secrets.token_hex(4), os.urandom(2), os.getpid(), hash('a'), object(), {'b', 'a', 'c'})"
    )
    outputs = []
    for other in (sandbox, BACKENDS["embedded"]()):
        session = other.open(IMAGE, TOOLBOX)
        outputs.append(run(session, code))
        session.close()
        if other is not sandbox:
            other.close()
    assert outputs[0] == outputs[1]
    assert "exception" not in outputs[0]
    assert "2026-03-15 12:00:03" in outputs[0]["output"]


def test_a_file_runs_with_variables_of_its_own(session):
    run(session, "x = 1")
    call(session, "write_file", path="script.py", text="y = 2\nprint(__name__, 'x' in globals())")
    assert call(session, "run_python_file", path="./script.py") == {"output": "__main__ False"}
    assert run(session, "'y' in globals()") == {"output": "False"}
    assert session.call("run_python_file", {"path": "no.py"}).error is not None


def test_files_are_written_read_and_listed(session):
    assert call(session, "list_files") == {"files": []}
    assert call(session, "write_file", path="/workspace/a//b.txt", text="é\n") == {"path": "a/b.txt", "bytes": 3}
    assert call(session, "list_files") == {"files": [{"path": "a/b.txt", "bytes": 3}]}
    assert run(session, "open('a/b.txt').read()") == {"output": "'é\\n'"}
    call(session, "write_file", path="long.txt", text="\n".join(map(str, range(130))))
    assert call(session, "read_file", path="long.txt", page=3)["text"].startswith("120\n")
    assert session.call("read_file", {"path": "long.txt", "page": 4}).error is not None
    assert session.call("read_file", {"path": "none.txt"}).error is not None


@pytest.mark.parametrize("path", ["..", "../a", "/etc/passwd", ".", "a/../../b", "a\nb", "a\0b", "/workspace"])
def test_no_file_lies_outside_the_workspace(session, path):
    assert session.call("write_file", {"path": path, "text": ""}).error is not None
    assert call(session, "list_files") == {"files": []}


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("(1200 - 75.5) * 3 / 4", 843.375),
        ("2 ** 10", 1024),
        ("7 // 2", 3),
        ("max(1, 2, 3)", 3),
        ("-round(2.567, 2)", -2.57),
    ],
)
def test_calculate(session, expression, value):
    assert call(session, "calculate", expression=expression) == {"value": value}


@pytest.mark.parametrize(
    "expression", ["1 / 0", "9 ** 99", "__import__('os')", "(" * 400, "1e999", "sqrt(-1)", "'a' * 9", "1j"]
)
def test_calculate_refuses(session, expression):
    assert session.call("calculate", {"expression": expression}).error is not None


ANY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
arithmetic = st.text(alphabet="0123456789.eEjx_+-*/%() ,abscdeilfmnoqrtuwmx'\"[]:=<>~@\n", max_size=60)


@ANY
@given(st.one_of(st.text(max_size=60), arithmetic))
def test_calculate_never_raises(session, expression):
    json.dumps(session.call("calculate", {"expression": expression}).content, allow_nan=False)


@ANY
@given(st.one_of(st.text(max_size=200), st.text(alphabet='a1.,;\t|"\n\r\0eE-infa', max_size=200)))
def test_describe_csv_never_raises(session, text):
    digest = None
    if session.call("write_file", {"path": "a.csv", "text": text}).error is None:
        digest = session.digest()
        json.dumps(session.call("describe_csv", {"path": "a.csv"}).content, allow_nan=False)
        assert session.digest() == digest


@ANY
@given(st.text(min_size=1, max_size=40), st.text(max_size=200))
def test_what_is_written_is_read(session, path, text):
    written = session.call("write_file", {"path": path, "text": text})
    if written.error is None:
        assert "\n".join(text.splitlines()[:60]) == call(session, "read_file", path=path)["text"]


def test_describe_csv(session):
    call(session, "write_file", path="a.csv", text="name;amount\nb;1.5\na;2\n;")
    described = call(session, "describe_csv", path="a.csv")
    assert described == {
        "rows": 3,
        "delimiter": ";",
        "columns": [
            {"name": "name", "missing": 1, "type": "text", "distinct": 2, "min": "a", "max": "b"},
            {"name": "amount", "missing": 1, "type": "number", "min": 1.5, "max": 2, "mean": 1.75},
        ],
    }


def test_the_workspace_has_limits(session):
    for number in range(workspace.MAX_FILES):
        call(session, "write_file", path=f"f{number}", text="")
    assert session.call("write_file", {"path": "more", "text": ""}).error is not None
    assert "No space" in run(session, "open('more', 'w')")["exception"]


@pytest.mark.parametrize(
    "limits", [{"seconds": 0}, {"memory": 1}, {"output": 0}, {"files": 0}, {"seconds": float("nan")}]
)
def test_limits_that_leave_no_room_are_refused(limits):
    with pytest.raises(ValueError, match="must be at least"):
        Limits(**limits)
