"""Drifted toolboxes: what follows from a seed, and that they work."""

from __future__ import annotations

import pickle

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolenv.tools.calls import ToolCall
from toolenv.tools.drift import EVERY, PLANTED, Change, DriftedToolbox, Kind
from toolenv.tools.drifting import drifted
from toolenv.tools.errors import DeclarationError
from toolenv.tools.result_forms import DATE_FORMATS, ResultForms
from toolenv.tools.retyping import Retyping
from toolenv.tools.toolbox import Toolbox

CRM = Toolbox.of_families("crm")
seeds = st.integers(0, 10_000)
kinds = st.sampled_from(PLANTED)
dates = st.dates().map(lambda day: day.isoformat())


@given(kind=kinds, seed=seeds, severity=st.floats(0.01, 1))
def test_a_drift_follows_from_its_arguments_and_survives_a_pickle(kind: Kind, seed: int, severity: float) -> None:
    drift = drifted(CRM, [kind], severity=severity, seed=seed)
    assert {change.kind for change in drift.changes} == {kind}
    assert drift.version != CRM.version
    for other in (drifted(CRM, [kind], severity=severity, seed=seed), pickle.loads(pickle.dumps(drift))):
        assert (other.changes, other.version, other.specs) == (drift.changes, drift.version, drift.specs)
    assert orjson.loads(orjson.dumps(drift.changes))[0]["kind"] == kind


@given(seed=seeds, wanted=st.sets(kinds, min_size=1))
def test_each_kind_draws_by_itself(seed: int, wanted: set[Kind]) -> None:
    together = drifted(CRM, wanted, seed=seed).changes
    removed = {change.tool for change in together if change.kind is Kind.REMOVED_TOOL}
    alone = [change for kind in PLANTED if kind in wanted for change in drifted(CRM, [kind], seed=seed).changes]
    assert list(together) == [c for c in alone if c.kind is Kind.REMOVED_TOOL or c.tool not in removed]


@given(seed=seeds, severity=st.floats(0.01, 1))
def test_names_stay_apart_and_tools_stay(seed: int, severity: float) -> None:
    some = set(PLANTED) - {Kind.REMOVED_TOOL}
    drift = drifted(CRM, some, severity=severity, seed=seed)
    assert len(drift) == len(CRM)
    for tool in CRM:
        call = drift.asked(ToolCall(tool.name, {}))
        assert call is not None
        assert len(drift[call.name].spec.parameters["properties"]) >= len(tool.spec.parameters["properties"])
    assert len(drifted(CRM, [Kind.REMOVED_TOOL], severity=severity, seed=seed)) >= 1


def test_what_is_called_as_before_is_refused_in_the_new_words() -> None:
    toolbox = DriftedToolbox(
        CRM,
        [
            Change(Kind.RENAME_TOOL, "get_order_status", before="get_order_status", after="fetch_order_status"),
            Change(Kind.RENAME_ARGUMENT, "get_order_by_id", "order_id", "order_id", "orderId"),
            Change(Kind.REQUIRED_ARGUMENT, "get_product_by_id", "locale", None, {"type": "string", "enum": ["en"]}),
            Change(Kind.ERROR_TEXT, EVERY, before="{}", after="Request failed: {}"),
        ],
    )

    def refused(name: str, **arguments: object) -> tuple[object, ...]:
        result = toolbox.understood(name, arguments)
        assert not isinstance(result, ToolCall)
        error = orjson.loads(result.text)["error"]
        assert error["message"].startswith("Request failed: ")
        return error["type"], error.get("field"), error.get("rule")

    assert refused("get_order_status", order_id="ORD-00001") == ("unknown_tool", "name", None)
    assert refused("get_order_by_id", order_id="ORD-00001") == ("invalid_arguments", "orderId", "missing")
    assert refused("get_product_by_id", product_id="PRD-00001") == ("invalid_arguments", "locale", "missing")
    assert refused("get_product_by_id", product_id="PRD-00001", locale="xx")[2] == "literal_error"
    extra = refused("get_order_by_id", orderId="ORD-00001", order_id="ORD-00001")
    assert extra == ("invalid_arguments", "order_id", "extra_forbidden")
    understood = toolbox.understood("fetch_order_status", {"order_id": "ORD-00001"})
    assert understood == ToolCall("get_order_status", {"order_id": "ORD-00001"})


@pytest.mark.parametrize(
    "change",
    [
        Change(Kind.RENAME_TOOL, "no_such_tool", after="x"),
        Change(Kind.RENAME_ARGUMENT, "get_order_status", "no_such_argument", after="x"),
        Change(Kind.BEHAVIOUR, "get_order_status"),
    ],
)
def test_a_change_of_what_there_is_not_is_refused(change: Change) -> None:
    with pytest.raises(DeclarationError, match=change.kind):
        DriftedToolbox(CRM, [change])


@pytest.mark.parametrize("severity", [0, -1, 1.01, float("nan")])
def test_a_severity_out_of_range_is_refused(severity: float) -> None:
    with pytest.raises(ValueError, match="severity must be above 0 and at most 1"):
        drifted(CRM, ["order"], severity=severity, seed=0)


def test_a_kind_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match="there is no drift 'rename'; there is: rename_tool, rename_argument"):
        drifted(CRM, ["rename"], seed=0)


@settings(deadline=None)
@given(st.data())
def test_a_retyped_value_comes_back(data: st.DataObject) -> None:
    values = {
        "integer": st.integers(-(10**14), 10**14),
        "number": st.integers(-(10**8), 10**8).map(lambda cents: cents / 100),
        "boolean": st.booleans(),
        "string": st.text(),
    }
    kind = data.draw(st.sampled_from(sorted(values)))
    value = data.draw(values[kind])
    how = Retyping.of({"anyOf": [{"type": kind}, {"type": "null"}], "default": None, "description": "It."})
    assert how.schema["description"] == "It."
    assert how.back("it", how.there(value)) == value
    assert type(how.there(value)) is not type(value)
    assert how.back("it", None) is None


# -- the form of results ------------------------------------------------------------------------------------


@given(form=st.sampled_from(sorted(DATE_FORMATS)), date=dates)
def test_dates_come_back_as_they_were(form: str, date: str) -> None:
    forms = ResultForms(date=form)
    shown = forms.show({"due": date, "note": [f"by {date}."]})
    assert date not in shown["due"]
    assert forms.hear({"a": shown["due"], "b": [shown["note"][0]]}) == {"a": date, "b": [f"by {date}."]}


@given(cents=st.integers(0, 10**9))
def test_amounts_come_back_as_they_were(cents: int) -> None:
    forms = ResultForms(money_as_text=True)
    shown = forms.show({"total": cents / 100, "hours": 1.5})
    assert shown["hours"] == 1.5
    assert forms.hear(shown["total"]) == cents / 100
    assert forms.hear_text(f"It is {shown['total']}.") == f"It is {cents / 100:.2f}."


@given(seed=seeds)
def test_no_two_fields_become_one(seed: int) -> None:
    forms = drifted(CRM, [Kind.RESULT_FIELD], severity=1.0, seed=seed).forms
    fields = ("status", "state", "total", "amount", "price", "name", "reason", "message", "quantity", "stock")
    assert len(forms.show(dict.fromkeys(fields, 12.5))) == len(fields)
