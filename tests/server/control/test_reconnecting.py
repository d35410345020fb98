"""What is kept of Envoys that come, go and return."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.server.control.conftest import Envoy, snapshot_of
from vireo.server.control.clients import (
    MAX_GONE,
    Clients,
    Push,
)
from vireo.server.control.snapshot import CLUSTER, LISTENER, ROUTES


def test_an_envoy_that_returns_gets_its_last_accepted_version() -> None:
    clients = Clients()
    before = Envoy(clients)
    before.publish(r="good")
    before.ask(ROUTES, "r")
    good = before.receive()
    before.take(good)
    before.publish(r="bad")
    before.refuse(before.receive())
    clients.end(before.session)
    after = Envoy(clients)
    after.snapshot = before.snapshot
    after.ask(ROUTES, "r")
    assert after.receive().resources == good.resources


@pytest.mark.parametrize("kind", [CLUSTER, ROUTES])
def test_a_version_that_another_build_refuses_is_tried_once_on_each_stream(kind: str) -> None:
    clients = Clients()
    contents = {"c_a": "1"} if kind == CLUSTER else {"r": "1"}
    for accepts in (True, False, False):
        following = Envoy(clients)
        following.publish(**contents)
        following.ask(kind, *(() if kind == CLUSTER else ("r",)))
        push = following.receive()
        following.take(push) if accepts else following.refuse(push)
        assert following.taken() == []
        clients.end(following.session)


def test_an_envoy_with_a_stream_is_never_forgotten_however_many_come_and_go() -> None:
    clients = Clients()
    lasting = clients.begin("lasting", "", "")
    again = clients.begin("lasting", "", "")
    for number in range(MAX_GONE + 5):
        clients.end(clients.begin(f"passing-{number}", "", ""))
    known = {client.identity for client in clients.all()}
    assert "lasting" in known
    assert len(known) == 1 + MAX_GONE
    assert "passing-4" not in known, "the first that went is the first that is forgotten"
    clients.end(lasting)
    assert len(clients.all()) == 1 + MAX_GONE, "its other stream is open"
    clients.end(again)
    assert len(clients.all()) == MAX_GONE


def test_scrapes_in_another_thread_see_whole_clients_while_streams_begin_and_end() -> None:
    clients, usual = Clients(), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads take turns as often as possible

    def stream() -> None:
        for number in range(5_000):
            clients.end(clients.begin(f"node {number % 3}", "", ""))

    with ThreadPoolExecutor(1) as threads:
        streams = threads.submit(stream)
        while not streams.done():
            assert all(client.session.client is client for client in clients.all())
        streams.result()
    sys.setswitchinterval(usual)


class Following(RuleBasedStateMachine):
    """An Envoy that asks, leaves, accepts, refuses and reconnects while resources change."""

    def __init__(self) -> None:
        super().__init__()
        self.clients = Clients()
        self.envoy = Envoy(self.clients)
        self.has: dict[str, dict[str, str]] = {}
        """Versions by kind and name, as an Envoy keeps them; only those of a kind asked for."""
        self.routes: set[str] = set()
        self.in_flight: Push | None = None

    @rule(contents=st.dictionaries(st.sampled_from(["c-a", "c-b", "l", "r-a", "r-b"]), st.just("")))
    def publish(self, contents: dict[str, str]) -> None:
        self.envoy.snapshot = snapshot_of(contents)

    @rule(names=st.dictionaries(st.sampled_from(["c-a", "l", "r-a"]), st.sampled_from("123")))
    def change(self, names: dict[str, str]) -> None:
        self.envoy.snapshot = snapshot_of(names)

    @rule(kind=st.sampled_from([CLUSTER, LISTENER]))
    def ask_for_all(self, kind: str) -> None:
        self.has.setdefault(kind, {})
        self.envoy.ask(kind)

    @rule(name=st.sampled_from(["r-a", "r-b"]))
    def ask_for(self, name: str) -> None:
        self.has.setdefault(ROUTES, {}).pop(name, None)
        self.routes.add(name)
        self.envoy.ask(ROUTES, name)

    @rule(name=st.sampled_from(["r-a", "r-b"]))
    def leave(self, name: str) -> None:
        if ROUTES in self.has:
            self.has[ROUTES].pop(name, None)
            self.routes.discard(name)
            self.envoy.leave(ROUTES, name)

    @rule()
    def receive(self) -> None:
        if (push := self.envoy.session.next(self.envoy.snapshot)) is not None:
            self.in_flight = push

    @rule()
    def accept(self) -> None:
        if (push := self.in_flight) is not None:
            self.apply(push)
            self.envoy.take(push)
            self.in_flight = None

    @rule()
    def reconnect(self) -> None:
        self.clients.end(self.envoy.session)
        snapshot, self.envoy = self.envoy.snapshot, Envoy(self.clients)
        self.envoy.snapshot, self.in_flight = snapshot, None
        for kind, has in self.has.items():
            self.envoy.ask(kind, *(self.routes if kind == ROUTES else ()), has=dict(has))

    def apply(self, push: Push) -> None:
        kept = self.has.setdefault(push.kind, {})
        for name, each in push.resources.items():
            if push.kind != ROUTES or name in self.routes:
                kept[name] = each.version
        for name in push.removed:
            kept.pop(name, None)

    @invariant()
    def ends_with_the_snapshot(self) -> None:
        """Whatever has happened: once nothing more comes, the Envoy has exactly what it wants."""
        if self.in_flight is not None:
            return
        while (push := self.envoy.session.next(self.envoy.snapshot)) is not None:
            self.apply(push)
            self.envoy.take(push)
        for kind, has in self.has.items():
            current = self.envoy.snapshot.resources[kind]
            assert has == {
                name: each.version
                for name, each in current.items()
                if kind != ROUTES or name in self.routes
            }


TestFollowing = Following.TestCase
