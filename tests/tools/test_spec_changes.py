"""What changed between two versions of specs: what was planted, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolenv.tools.drift import EVERY, PLANTED, Kind
from toolenv.tools.drifting import drifted
from toolenv.tools.spec_changes import spec_changes, type_of, types_of
from toolenv.tools.toolbox import Toolbox

BOXES = [Toolbox.of_families(family) for family in ("crm", "database")]
OF_SPECS = PLANTED[: PLANTED.index(Kind.RESULT_FIELD)]


@settings(deadline=None)
@given(box=st.sampled_from(BOXES), kind=st.sampled_from(OF_SPECS), seed=st.integers(0, 10_000))
def test_what_was_planted_is_found_and_named_and_nothing_else(box: Toolbox, kind: Kind, seed: int) -> None:
    drift = drifted(box, [kind], seed=seed)
    found = {(f.change.kind, f.change.tool, f.change.field) for f in spec_changes(box.specs, drift.specs)}
    assert found == {(change.kind, change.tool, change.field) for change in drift.changes}


@pytest.mark.parametrize("box", BOXES, ids=lambda box: box.names[0])
def test_equal_specs_have_not_changed(box: Toolbox) -> None:
    assert spec_changes(box.specs, box.specs) == []


def test_what_goes_the_other_way_is_named_so() -> None:
    box = BOXES[0]
    wanted = {Kind.REQUIRED_ARGUMENT: Kind.REMOVED_ARGUMENT, Kind.REMOVED_TOOL: Kind.ADDED_TOOL}
    for planted, kind in wanted.items():
        drift = drifted(box, [planted], seed=0)
        assert {f.change.kind for f in spec_changes(drift.specs, box.specs)} == {kind}


def test_an_argument_that_need_not_be_given_and_a_narrower_one() -> None:
    spec = BOXES[0]["search_orders"].spec
    before = spec.parameters["properties"]
    narrower = {**before, "status": {"type": "string", "enum": ["paid"]}, "depth": {"type": "integer"}}
    after = replace(spec, parameters={**spec.parameters, "properties": narrower})
    found = {(f.change.kind, f.change.field): f for f in spec_changes([spec], [after])}
    assert found.keys() >= {(Kind.OPTIONAL_ARGUMENT, "depth"), (Kind.CONSTRAINT, "status")}
    assert all(f.sure == 1.0 for f in found.values())


def test_order_is_one_change_of_the_whole() -> None:
    specs = BOXES[0].specs
    (found,) = spec_changes(specs, (*specs[1:], specs[0]))
    assert (found.change.kind, found.change.tool) == (Kind.ORDER, EVERY)


def test_types_of_schemas_and_values() -> None:
    assert types_of({"anyOf": [{"type": "string"}, {"type": "null"}]}) == {"string", "null"}
    assert types_of({"enum": ["a", 1]}) == {"string", "integer"}
    assert types_of({"type": ["number", "null"]}) == {"number", "null"}
    assert [type_of(value) for value in (None, True, 1, 1.0, "", [], {})] == (
        ["null", "boolean", "integer", "number", "string", "array", "object"]
    )
