"""The upper layer's state machine against PS3.8 table 9-10, as pynetdicom has it."""

import pytest
from pynetdicom.fsm import ACTIONS, TRANSITION_TABLE

from router.dimse.state import TABLE, Action, Event, Machine, Role, State
from router.errors import LocalProtocolError


def standard(state: State, event: Event) -> str | None:
    return TRANSITION_TABLE.get((f"Evt{event.value}", f"Sta{state.value}"))


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_every_cell_is_the_standards(state, event):
    expected = standard(state, event)
    cell = TABLE[state].get(event)
    assert (cell[0].value if cell else None) == expected


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
@pytest.mark.parametrize("role", Role)
def test_stepping_leads_where_the_action_leads(state, event, role):
    machine = Machine(role)
    machine.state = state
    if event not in TABLE[state]:
        with pytest.raises(LocalProtocolError):
            machine.step(event)
        assert machine.state is state
        return
    action = machine.step(event)
    following = ACTIONS[action.value][2]
    if action is Action.AR_8:
        following = "Sta9" if role is Role.REQUESTOR else "Sta10"
    elif action is Action.AE_6:
        following = "Sta3"  # a rejection by the provider is made like one of the user: Evt8 in Sta3
    assert f"Sta{machine.state.value}" == following


def test_the_errors_text_names_event_and_state():
    with pytest.raises(LocalProtocolError, match="p data request is not allowed while idle"):
        Machine(Role.REQUESTOR).step(Event.P_DATA_REQUEST)
