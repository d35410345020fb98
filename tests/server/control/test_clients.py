"""What an Envoy is sent next, by what it wants, has and has refused."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.server.control.conftest import Envoy, snapshot_of
from vireo.server.control.clients import (
    MAX_MESSAGE_LENGTH,
    MAX_NAME_LENGTH,
    MAX_NAMES,
    ClientLimitError,
    Push,
)
from vireo.server.control.snapshot import CLUSTER, ENDPOINTS, LISTENER, ROUTES


@pytest.fixture
def envoy() -> Envoy:
    """An Envoy that has two clusters, a listener and a route."""
    following = Envoy()
    following.publish(c_a="1", c_b="1", l="1", r="1")
    following.ask(CLUSTER)
    following.ask(ENDPOINTS, "c-a", "c-b")
    following.ask(LISTENER)
    following.ask(ROUTES, "r")
    following.taken()
    return following


def test_new_resources_come_after_those_they_refer_to() -> None:
    fresh = Envoy()
    fresh.publish(c_a="1", l="1", r="1", r_b="1")
    fresh.ask(LISTENER)
    fresh.ask(ROUTES, "r")
    fresh.ask(CLUSTER)
    fresh.ask(ENDPOINTS, "c-a")
    assert fresh.taken() == ["clusters +c-a", "endpoints +c-a", "listeners +l", "routes +r"]


@pytest.mark.parametrize(
    ("contents", "sent"),
    [
        ({"c_a": "1", "c_b": "1", "l": "1", "r": "2"}, ["routes +r"]),
        ({"c_a": "2", "c_b": "1", "l": "1", "r": "1"}, ["clusters +c-a", "endpoints +c-a"]),
        ({"c_a": "1", "l": "1", "r": "2"}, ["routes +r", "clusters -c-b", "endpoints -c-b"]),
        ({"c_a": "1", "c_b": "1", "l": "1", "r": "1"}, []),
    ],
    ids=["a change", "a replaced cluster gets its endpoints again", "a removal, last", "nothing"],
)
def test_only_what_has_changed_is_sent(
    contents: dict[str, str], sent: list[str], envoy: Envoy
) -> None:
    envoy.publish(**contents)
    assert envoy.taken() == sent


def test_routes_wait_until_a_new_cluster_is_taken_but_its_endpoints_do_not(envoy: Envoy) -> None:
    envoy.publish(c_a="1", c_b="1", c_c="1", l="1", r="to c")
    cluster = envoy.receive()
    # As Envoy does: its cluster is warm, and acknowledged, once it has endpoints.
    envoy.ask(ENDPOINTS, "c-c")
    endpoints = envoy.receive()
    assert [each.resource and each.resource.name for each in (cluster, endpoints)] == ["c-c"] * 2
    envoy.take(endpoints)
    assert envoy.client.next(envoy.snapshot) is None
    envoy.take(cluster)
    assert envoy.taken() == ["routes +r"]


def test_a_refused_resource_is_not_sent_again_until_it_changes(envoy: Envoy) -> None:
    envoy.publish(c_a="1", c_b="1", l="1", r="bad")
    envoy.refuse(envoy.receive(), "duplicate route")
    assert envoy.taken() == []
    assert envoy.client.subscriptions[ROUTES].nacks["r"].message == "duplicate route"
    envoy.publish(c_a="2", c_b="1", l="1", r="bad")
    assert envoy.taken() == ["clusters +c-a", "endpoints +c-a"], "other kinds go on"
    envoy.publish(c_a="2", c_b="1", l="1", r="mended")
    assert envoy.taken() == ["routes +r"]
    assert not envoy.client.subscriptions[ROUTES].nacks


def test_a_refused_removal_is_not_insisted_on(envoy: Envoy) -> None:
    envoy.publish(c_a="1", l="1", r="1")
    envoy.refuse(envoy.receive(), "I need it")
    assert not [sent for sent in envoy.taken() if sent.startswith("clusters")]


def test_a_cluster_stays_while_the_client_refuses_to_turn_from_it(envoy: Envoy) -> None:
    envoy.publish(c_a="1", l="1", r="to nowhere")
    envoy.refuse(envoy.receive(), "no such cluster")
    assert envoy.taken() == []


def test_an_envoy_that_reconnects_is_sent_only_what_it_lacks_and_its_endpoints() -> None:
    following = Envoy()
    following.publish(c_a="1", c_b="1")
    versions = {
        kind: {name: each.version for name, each in following.snapshot[kind].items()}
        for kind in (CLUSTER, ENDPOINTS)
    }
    following.ask(CLUSTER, has={"c-a": versions[CLUSTER]["c-a"], "c-b": "old", "c-gone": "1"})
    following.ask(ENDPOINTS, "c-a", "c-b", has=versions[ENDPOINTS])
    # A cluster that was replaced before is warm only once it has endpoints again.
    endpoints = ["endpoints +c-a", "endpoints +c-b"]
    assert following.taken() == ["clusters +c-b", *endpoints, "clusters -c-gone"]
    following.ask(CLUSTER, has={"c-a": "old"})
    assert following.taken() == [], "versions count in a stream's first request only"


def test_a_missing_name_is_answered_and_sent_once_it_exists(envoy: Envoy) -> None:
    envoy.ask(ROUTES, "r-new")
    assert envoy.taken() == ["routes -r-new"]
    envoy.publish(c_a="1", c_b="1", l="1", r="1", r_new="1")
    assert envoy.taken() == ["routes +r-new"]


def test_what_an_envoy_may_say_is_bounded(envoy: Envoy) -> None:
    for names in (["x" * (MAX_NAME_LENGTH + 1)], [f"r-{each}" for each in range(MAX_NAMES + 1)]):
        with pytest.raises(ClientLimitError):
            envoy.ask(ROUTES, *names)
    envoy.publish(c_a="2", c_b="1", l="1", r="1")
    envoy.refuse(envoy.receive(), "no " * 500_000)
    assert len(envoy.client.subscriptions[CLUSTER].nacks["c-a"].message) == MAX_MESSAGE_LENGTH


class Following(RuleBasedStateMachine):
    """An Envoy that asks, leaves, accepts, refuses and reconnects while resources change."""

    def __init__(self) -> None:
        super().__init__()
        self.envoy = Envoy()
        self.has: dict[str, dict[str, str]] = {}
        """Versions by kind and name, as an Envoy keeps them; only those of a kind asked for."""
        self.refused: set[tuple[str, str, str]] = set()
        """Kind, name and version of what it has refused on this stream."""
        self.routes: set[str] = set()
        self.in_flight: Push | None = None

    @rule(
        contents=st.dictionaries(
            st.sampled_from(["c-a", "c-b", "l", "r-a", "r-b"]), st.sampled_from("123")
        )
    )
    def publish(self, contents: dict[str, str]) -> None:
        self.envoy.snapshot = snapshot_of(contents)

    @rule(kind=st.sampled_from([CLUSTER, LISTENER]))
    def ask_for_all(self, kind: str) -> None:
        self.has.setdefault(kind, {})
        self.envoy.ask(kind)

    @rule(name=st.sampled_from(["r-a", "r-b"]), asks=st.booleans())
    def ask_for_or_leave(self, name: str, *, asks: bool) -> None:
        if asks or ROUTES in self.has:
            self.has.setdefault(ROUTES, {}).pop(name, None)
            self.refused = {each for each in self.refused if each[1] != name}
            (self.routes.add if asks else self.routes.discard)(name)
            (self.envoy.ask if asks else self.envoy.leave)(ROUTES, name)

    @rule()
    def receive(self) -> None:
        if (push := self.envoy.client.next(self.envoy.snapshot)) is not None:
            self.in_flight = push

    @rule()
    def accept(self) -> None:
        if (push := self.in_flight) is not None:
            self.apply(push)
            self.envoy.take(push)
            self.in_flight = None

    @rule()
    def refuse(self) -> None:
        push = self.in_flight
        if push is not None and push.resource is not None and not push.removed:
            name = push.resource.name
            known = self.envoy.client.subscriptions[push.kind].pending
            if known is push:  # else the name was left, or asked for again
                self.refused.add((push.kind, name, push.resource.version))
            self.envoy.refuse(push)
            self.in_flight = None

    @rule()
    def reconnect(self) -> None:
        snapshot, self.envoy = self.envoy.snapshot, Envoy()
        self.envoy.snapshot, self.in_flight, self.refused = snapshot, None, set()
        for kind, has in self.has.items():
            self.envoy.ask(kind, *(self.routes if kind == ROUTES else ()), has=dict(has))

    def apply(self, push: Push) -> None:
        kept = self.has.setdefault(push.kind, {})
        if push.resource and (push.kind != ROUTES or push.resource.name in self.routes):
            kept[push.resource.name] = push.resource.version
        for name in push.removed:
            kept.pop(name, None)

    @invariant()
    def ends_with_the_snapshot(self) -> None:
        """Whatever has happened: once nothing more comes, the Envoy has all that it accepts."""
        if self.in_flight is not None:
            return
        while (push := self.envoy.client.next(self.envoy.snapshot)) is not None:
            self.apply(push)
            self.envoy.take(push)
        for kind, has in self.has.items():
            wanted = {
                (name, each.version)
                for name, each in self.envoy.snapshot[kind].items()
                if kind != ROUTES or name in self.routes
            }
            refused = {(name, version) for of, name, version in self.refused if of == kind}
            assert wanted - refused <= has.items(), "it has the newest of all that it accepts"
            assert has.keys() <= {name for name, _ in wanted} or any(
                of in (LISTENER, ROUTES) for of, *_ in self.refused
            ), "and nothing that is gone, unless what it keeps may refer to that"


TestFollowing = Following.TestCase
