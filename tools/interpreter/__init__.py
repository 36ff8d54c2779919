"""The interpreter family: Python in a sandbox, and the files that it works on.

`calculate` and `describe_csv` do with one cheap call what `run_python` does as well, so that a router has something to
learn. The order of the imports is the toolbox's order.
"""

# isort: off
from toolenv.tools.interpreter.python import run_python, run_python_file
from toolenv.tools.interpreter.files import list_files, read_file, write_file
from toolenv.tools.interpreter.quick import calculate, describe_csv

# isort: on

__all__ = [
    "calculate",
    "describe_csv",
    "list_files",
    "read_file",
    "run_python",
    "run_python_file",
    "write_file",
]
