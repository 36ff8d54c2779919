"""Habits of the house that no linter holds."""

from __future__ import annotations

import ast
import re

# Built from parts, so that this file does not match itself.
TO_DO = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X"]) + r")\b")
MACHINE_PATH = re.compile(r"(?<![\w.])/(" + "|".join(["root", "home", "Users", "work", "opt", "old_root"]) + r")/\w")
BARE_IGNORE = re.compile(r"#\s*type:\s*" + r"ignore(?!\[[\w, -]+\]\s+#\s*\S)")
# These name the rules.
MENTIONS = {"tests/architecture/test_house.py", "CONTRIBUTING.md"}


def _hits(pattern, paths, repository):
    hits = []
    for path in paths:
        place = path.relative_to(repository).as_posix()
        if place not in MENTIONS:
            lines = path.read_text(encoding="utf-8").splitlines()
            hits += [
                f"{place}:{number}: {line.strip()}" for number, line in enumerate(lines, 1) if pattern.search(line)
            ]
    return hits


def test_nothing_is_left_to_do(text_files, repository):
    hits = _hits(TO_DO, text_files, repository)
    assert not hits, "an issue says what is to be done, the code what is: " + "; ".join(hits)


def test_no_path_of_one_machine(text_files, repository):
    hits = _hits(MACHINE_PATH, text_files, repository)
    assert not hits, "a path that only one machine has: " + "; ".join(hits)


def test_an_ignored_type_error_names_its_code_and_its_reason(text_files, repository):
    hits = _hits(BARE_IGNORE, [path for path in text_files if path.suffix == ".py"], repository)
    assert not hits, "write `# type: " + "ignore[code]  # reason`: " + "; ".join(hits)


def test_no_drawer_for_odds_and_ends(modules):
    drawers = {"common", "helper", "helpers", "misc", "util", "utils"}
    found = [module.place for module in modules if drawers & set(module.name.split("."))]
    assert not found, "name a module after what it is about: " + ", ".join(found)


def test_every_module_opens_with_its_argument(modules):
    silent = [m.place for m in modules if not ast.get_docstring(ast.parse(m.path.read_text(encoding="utf-8")))]
    assert not silent, "a module opens with what it does and what it omits: " + ", ".join(silent)
