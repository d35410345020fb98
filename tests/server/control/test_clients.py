"""What an Envoy is sent next, by what it wants, has and has refused."""

from __future__ import annotations

import pytest

from tests.server.control.conftest import Envoy, snapshot_of
from vireo.server.control.clients import (
    MAX_MESSAGE_LENGTH,
    MAX_NAME_LENGTH,
    MAX_NAMES,
    ClientLimitError,
)
from vireo.server.control.snapshot import CLUSTER, ENDPOINTS, LISTENER, ROUTES, Snapshot

ALL = {"c-a": "1", "c-b": "1", "l": "1", "r": "1"}


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


@pytest.mark.parametrize("acknowledged", ["first", "after it was left", "in the end"])
def test_a_name_that_is_left_and_asked_for_again_is_sent_again(acknowledged: str) -> None:
    following = Envoy()
    following.publish(r_a="1", r_b="1")
    following.ask(ROUTES, "r-a", "r-b")
    both = following.receive()
    if acknowledged == "first":
        following.take(both)
    following.leave(ROUTES, "r-b")
    if acknowledged == "after it was left":
        following.take(both)
    following.ask(ROUTES, "r-b")
    if acknowledged == "in the end":
        following.take(both)
    assert following.taken()[-1].endswith("+r-b")
    following.leave(ROUTES, "r-a")
    following.publish(r_a="2", r_b="1")
    assert following.taken() == []


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


def test_a_snapshot_has_each_name_once() -> None:
    [resource] = snapshot_of({"r": "1"}).resources[ROUTES].values()
    with pytest.raises(ValueError, match="duplicate"):
        Snapshot.of([resource, resource])
