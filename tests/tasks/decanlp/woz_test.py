"""WOZ's changes of state: what can and cannot be read."""

import pytest

from mtl_t5x.tasks.decanlp import woz as decanlp_woz


@pytest.mark.parametrize("text", ["", ";", "food: thai", "food thai;", "food: ;", "a: b; c; d"])
def test_what_is_no_change_of_state(text):
    assert decanlp_woz.parse(text) is None


def test_case_space_order_and_repetition_of_requests_do_not_matter():
    found = decanlp_woz.parse(" Food:  Thai ;phone, Address,phone")
    assert found == decanlp_woz.Change({"food": "thai"}, ["address", "phone"])
    assert decanlp_woz.parse("none") == decanlp_woz.Change({}, [])
    assert decanlp_woz.parse("; phone") == decanlp_woz.Change({}, ["phone"])


def test_a_goal_changes_where_it_is_new_or_other_than_a_turn_before():
    def state(**goals):
        return [{"act": "inform", "slots": [[slot, value]]} for slot, value in goals.items()]

    request = [{"act": "request", "slots": [["slot", "phone"]]}]
    turns = [state(food="thai"), state(food="thai", area="north") + request, [], state(food="thai")]
    texts = [decanlp_woz.to_text(change) for change in decanlp_woz.changes(turns)]
    assert texts == ["food: thai;", "area: north; phone", "None", "food: thai;"]


@pytest.mark.parametrize(
    "value, text",
    [
        ("", "None"),
        (" , ", "None"),
        ("fish, chips; peas", "food: fish chips peas;"),
        ("a:b", "food: a:b;"),
    ],
)
def test_every_change_can_be_read_back(value, text):
    """A value may be empty or hold what separates values."""
    goals = [{"act": "inform", "slots": [["food", value]]}]
    requests = [{"act": "request", "slots": [["slot", value]]}]
    (change,) = decanlp_woz.changes([goals])
    assert decanlp_woz.to_text(change) == text
    for state in (goals, requests, goals + requests):
        (change,) = decanlp_woz.changes([state])
        assert decanlp_woz.parse(decanlp_woz.to_text(change)) == change
