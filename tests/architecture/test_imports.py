"""The one direction of imports, read from the syntax trees: tools, scenarios, envs, agents, training, toolenv."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

# These cost seconds to import, and the light core is installed without them.
HEAVY = {
    "accelerate",
    "datasets",
    "docker",
    "matplotlib",
    "openai",
    "pandas",
    "peft",
    "ray",
    "torch",
    "transformers",
    "trl",
}
# Training is the one room whose modules may open with the extra [train]; nothing in the core imports it at the top.
AT_HOME_IN_TRAINING = {"accelerate", "datasets", "peft", "tokenizers", "torch", "transformers", "trl"}


def _target_module(target, names):
    """The module of ours that an import reaches: `toolenv.tools.world.World` lies in `toolenv.tools.world`."""
    parts = target.split(".")
    for end in range(len(parts), 0, -1):
        if ".".join(parts[:end]) in names:
            return ".".join(parts[:end])
    return None


def test_a_room_imports_only_rooms_to_its_left(modules, rooms):
    by_name = {module.name: module for module in modules}
    breaches = []
    for module in modules:
        for imported in module.imports:
            target = _target_module(imported.target, by_name)
            if target and rooms.index(by_name[target].room) > rooms.index(module.room):
                breaches.append(f"{module.place}:{imported.line} imports {imported.target}")
    assert not breaches, "a room imports only rooms to its left: " + "; ".join(breaches)


def test_modules_form_no_cycle(modules):
    names = {module.name for module in modules}
    graph = {}
    for module in modules:
        targets = {_target_module(imported.target, names) for imported in module.imports}
        graph[module.name] = targets - {None, module.name}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError("modules import each other in a circle: " + " -> ".join(error.args[1])) from None


def test_rooms_are_imported_through_the_package(modules, rooms, repository):
    """From the root `tools.x` and `toolenv.tools.x` would be two modules with two sets of classes."""
    bare = set(rooms) - {"toolenv"}
    breaches = [
        f"{module.place}:{imported.line} imports {imported.target}"
        for module in [*modules, *_scripts(repository, type(modules[0]))]
        for imported in module.imports
        if imported.target.split(".")[0] in bare
    ]
    assert not breaches, "write toolenv.<room>: " + "; ".join(breaches)


def test_heavy_libraries_are_imported_on_use(modules):
    breaches = []
    for module in modules:
        allowed = AT_HOME_IN_TRAINING if module.room == "training" else set()
        for imported in module.imports:
            library = imported.target.split(".")[0]
            at_the_top = not imported.lazy and not imported.typing_only
            if at_the_top and library in HEAVY - allowed:
                breaches.append(f"{module.place}:{imported.line} imports {library} at the top")
    assert not breaches, "import it within the function that uses it: " + "; ".join(breaches)


def test_only_training_knows_trl(modules):
    breaches = [
        f"{module.place}:{imported.line}"
        for module in modules
        for imported in module.imports
        if imported.target.split(".")[0] == "trl" and module.room != "training"
    ]
    assert not breaches, "trl belongs to the room training: " + "; ".join(breaches)


def test_no_test_folder_is_a_package(repository):
    """With `--import-mode=importlib`, an `__init__.py` below tests/ would make two modules of one test."""
    assert not list((repository / "tests").rglob("__init__.py"))


def _scripts(repository, module_type):
    folders = ("benchmarks", "examples", "scripts", "tests")
    paths = [path for folder in folders for path in sorted((repository / folder).rglob("*.py"))]
    return [module_type(".".join(path.relative_to(repository).with_suffix("").parts), path) for path in paths]
