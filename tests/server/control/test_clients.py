"""What an Envoy is sent next, by what it wants, has and has refused."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.server.control.conftest import snapshot_of
from vireo.server.control.clients import (
    MAX_GONE,
    MAX_MESSAGE_LENGTH,
    MAX_NAME_LENGTH,
    MAX_NAMES,
    ClientLimitError,
    Clients,
    Push,
)
from vireo.server.control.snapshot import CLUSTER, ENDPOINTS, KINDS, LISTENER, ROUTES, Snapshot

ALL = {"c-a": "1", "c-b": "1", "l": "1", "r": "1"}


class Envoy:
    """An Envoy with one stream, which asks for all as Envoy does, and answers as a test decides."""

    def __init__(self, clients: Clients | None = None, identity: str = "envoy") -> None:
        self.session = (clients or Clients()).begin(identity, "", "")
        self.snapshot = snapshot_of({})

    def publish(self, **contents: str) -> None:
        """Publish contents by name, with an underscore for the hyphen."""
        self.snapshot = snapshot_of({k.replace("_", "-"): v for k, v in contents.items()})

    def ask(self, kind: str, *names: str, has: dict[str, str] | None = None) -> None:
        """Subscribe to names; to all of a kind without any."""
        self.session.change(kind, names, (), has or {})

    def leave(self, kind: str, *names: str) -> None:
        self.session.change(kind, (), names, {})

    def receive(self) -> Push:
        """The next response."""
        push = self.session.next(self.snapshot)
        assert push is not None
        return push

    def take(self, push: Push) -> None:
        self.session.ack(push.kind, push.nonce)

    def refuse(self, push: Push, words: str = "bad") -> None:
        self.session.nack(push.kind, push.nonce, words)

    def taken(self) -> list[str]:
        """All responses until nothing comes, each ACKed: a kind, and names with a sign."""
        found = []
        while (push := self.session.next(self.snapshot)) is not None:
            signs = [f"+{name}" for name in sorted(push.resources)]
            signs += [f"-{name}" for name in sorted(push.removed)]
            found.append(" ".join([KINDS[push.kind], *signs]))
            self.take(push)
        return found


@pytest.fixture
def envoy() -> Envoy:
    """An Envoy that has all of ALL."""
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
    fresh.publish(c_a="1", c_b="1", l="1", r="1", r_b="1")
    fresh.ask(LISTENER)
    fresh.ask(ROUTES, "r")
    fresh.ask(CLUSTER)
    fresh.ask(ENDPOINTS, "c-a")
    assert fresh.taken() == ["clusters +c-a +c-b", "endpoints +c-a", "listeners +l", "routes +r"]


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
    clusters = envoy.receive()
    assert {*clusters.resources} == {"c-c"}
    # As Envoy does: its cluster is warm, and acknowledged, once it has endpoints.
    envoy.ask(ENDPOINTS, "c-c")
    endpoints = envoy.receive()
    assert {*endpoints.resources} == {"c-c"}
    envoy.take(endpoints)
    assert envoy.session.next(envoy.snapshot) is None
    envoy.take(clusters)
    assert envoy.taken() == ["routes +r"]


def test_a_refused_resource_is_not_sent_again_until_it_changes(envoy: Envoy) -> None:
    envoy.publish(c_a="1", c_b="1", l="1", r="bad")
    envoy.refuse(envoy.receive(), "duplicate route")
    assert envoy.taken() == []
    assert envoy.session.client.nacks[ROUTES]["r"].message == "duplicate route"
    envoy.publish(c_a="2", c_b="1", l="1", r="bad")
    assert envoy.taken() == ["clusters +c-a", "endpoints +c-a"], "other kinds go on"
    envoy.publish(c_a="2", c_b="1", l="1", r="mended")
    assert envoy.taken() == ["routes +r"]
    assert not envoy.session.client.nacks[ROUTES]


@pytest.mark.parametrize("kind", [ROUTES, LISTENER])
def test_of_several_the_refused_one_is_found_by_sending_each_alone(kind: str) -> None:
    following = Envoy()
    first = "r" if kind == ROUTES else "l"
    following.publish(**{f"{first}_{each}": "1" for each in "abc"})
    following.ask(kind, *([f"r-{each}" for each in "abc"] if kind == ROUTES else []))
    following.refuse(following.receive())
    taken = []
    while (push := following.session.next(following.snapshot)) is not None:
        [name] = push.resources
        if name.endswith("b"):
            following.refuse(push)
        else:
            taken.append(name)
            following.take(push)
    assert taken == [f"{first}-a", f"{first}-c"]
    assert {*following.session.client.nacks[kind]} == {f"{first}-b"}


def test_a_refused_removal_is_not_insisted_on(envoy: Envoy) -> None:
    envoy.publish(c_a="1", l="1", r="1")
    envoy.refuse(envoy.receive(), "I need it")
    assert not [sent for sent in envoy.taken() if sent.startswith("clusters")]


def test_a_cluster_stays_while_the_client_refuses_to_turn_from_it(envoy: Envoy) -> None:
    envoy.publish(c_a="1", l="1", r="to nowhere")
    envoy.refuse(envoy.receive(), "no such cluster")
    assert envoy.taken() == []


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


def test_an_envoy_that_reconnects_is_sent_only_what_it_lacks_and_its_endpoints() -> None:
    following = Envoy()
    following.publish(c_a="1", c_b="1")
    versions = {
        kind: {name: each.version for name, each in following.snapshot.resources[kind].items()}
        for kind in (CLUSTER, ENDPOINTS)
    }
    following.ask(CLUSTER, has={"c-a": versions[CLUSTER]["c-a"], "c-b": "old", "c-gone": "1"})
    following.ask(ENDPOINTS, "c-a", "c-b", has=versions[ENDPOINTS])
    # A cluster that was replaced before is warm only once it has endpoints again.
    assert following.taken() == ["clusters +c-b", "endpoints +c-a +c-b", "clusters -c-gone"]
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
    assert len(envoy.session.client.nacks[CLUSTER]["c-a"].message) == MAX_MESSAGE_LENGTH


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


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    """Have threads take turns as often as possible."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("frequent_switches")
def test_scrapes_in_another_thread_see_whole_clients_while_streams_begin_and_end() -> None:
    clients = Clients()

    def stream() -> None:
        for number in range(5_000):
            clients.end(clients.begin(f"node {number % 3}", "", ""))

    with ThreadPoolExecutor(1) as threads:
        streams = threads.submit(stream)
        while not streams.done():
            assert all(client.session.client is client for client in clients.all())
        streams.result()


def test_a_snapshot_has_each_name_once() -> None:
    [resource] = snapshot_of({"r": "1"}).resources[ROUTES].values()
    with pytest.raises(ValueError, match="duplicate"):
        Snapshot.of([resource, resource])
