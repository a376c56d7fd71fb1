"""The page over HTTP: who may enter, which requests are answered, what the answers hold."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra `annotate` is not installed")
pytest.importorskip("latex2mathml", reason="the extra `annotate` is not installed")

from starlette.testclient import TestClient

from accord.annotate.security import Site, check_site
from accord.annotate.server import create_app
from accord.annotate.start import invite_person, revoke_person
from accord.compare.store.store import PreferenceStore
from accord.errors import RequestError
from accord.records import Message, Response, fields_json, with_context
from accord.settings.annotate import AnnotateSettings
from tests.annotate.desks import body, desk_of

LOCAL = Site("127.0.0.1", 8100)
PROXIED = Site("127.0.0.1", 8100, "https://lab.example.org/annotate")


def client_of(
    store: PreferenceStore,
    site: Site = LOCAL,
    *,
    annotator: str | None = "ann",
    guideline: str | None = None,
    **settings: Any,
) -> TestClient:
    app = create_app(
        desk_of(store, **settings), site, annotator=annotator, guideline_text=guideline
    )
    base = "http://127.0.0.1:8100" if site is LOCAL else "https://lab.example.org"
    return TestClient(app, base_url=base, raise_server_exceptions=True)


def test_a_vote_over_http(store: PreferenceStore) -> None:
    client = client_of(store)
    shown = client.post("/api/next", json={}).json()
    assert (shown["item"], shown["task"], shown["size"]) == (1, "pairs", 2)
    assert "Fry it." in shown["html"]
    assert "red to 0" in shown["html"]
    assert "model" not in shown["html"]  # blind
    for _ in range(2):
        saved = client.post("/api/answer", json={**body("one"), "item": 1})
        assert saved.json() == {"saved": True, "verdict": 1}
    after = client.post("/api/next", json={}).json()["progress"]
    assert after == {"done": 1, "remaining": 2, "seconds": 9.0}
    again = client.post("/api/undo", json={}).json()
    assert (again["item"], again["revises"], again["earlier"]["outcome"]) == (1, 1, "left")
    late = client.post("/api/answer", json={**body("two"), "item": 1})
    assert (late.status_code, late.json()["error"][:25]) == (409, "You have answered this it")
    assert len(store.verdicts(history=True)) == 1


@pytest.mark.parametrize(
    "send",
    [
        lambda c: c.post("/api/answer", json={**body("x" * 32), "item": 99}),
        lambda c: c.post("/api/answer", json={"item": "1"}),
        lambda c: c.post("/api/answer", json={**body("x" * 32), "item": 10**30}),
        lambda c: c.post("/api/next", json={"adjudicate": 10**30}),
        lambda c: c.get("/api/rest?item=999999999999&response=0"),
        lambda c: c.post("/api/renew", json={"item": True}),
        lambda c: c.post("/api/answer", content=b"{"),
        lambda c: c.post("/api/answer", content=b"[" * 100_000),
        lambda c: c.post("/api/answer", content=b'"' + b"x" * 300_000 + b'"'),
        lambda c: c.post("/api/answer", json=[1]),
        lambda c: c.post("/api/undo", json={"before": "now"}),
        lambda c: c.post("/api/undo", json={"before": True}),
        lambda c: c.post("/api/undo", json={"before": 10**400}),
        lambda c: c.post("/api/test", json={"answers": [1]}),
        lambda c: c.get("/api/rest?item=1&response=0"),
        lambda c: c.get("/api/difference?item=²"),
    ],
)
def test_requests_that_are_refused_change_nothing(
    store: PreferenceStore, send: Callable[[TestClient], Any]
) -> None:
    answer = send(client_of(store))
    assert answer.status_code in (400, 409)
    assert answer.json()["error"]
    assert store.verdicts(history=True) == []


def test_every_answer_has_the_security_headers(store: PreferenceStore) -> None:
    client = client_of(store)
    for path in ("/", "/owner", "/static/page.js", "/nowhere", "/api/rest"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
    for path in ("/", "/owner"):
        page = client.get(path).text
        assert "<style" not in page
        assert " style=" not in page
        assert " on" not in page.partition("<body")[2].partition(">")[0]
        assert "http" not in page  # nothing from elsewhere
    assert client.get("/static/../server.py").status_code == 404
    assert client.get("/static/%2e%2e/server.py").status_code == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "http://127.0.0.1:8100", "sec-fetch-site": "same-origin"}, 200),
        ({"host": "localhost:8100", "origin": "http://localhost:8100"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:9999"}, 403),  # another program of this machine
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"host": "evil.example:8100"}, 403),  # its name was pointed at this machine
        ({"host": "evil.example:8100", "origin": "http://evil.example:8100"}, 403),
        ({"host": ""}, 403),
        ({"host": "["}, 403),
        ({"host": "[::1"}, 403),
    ],
)
def test_only_the_page_itself_is_answered(
    store: PreferenceStore, headers: dict[str, str], status: int
) -> None:
    answer = client_of(store).post("/api/next", json={}, headers=headers)
    assert answer.status_code == status


def test_an_invitation_is_exchanged_for_a_session(store: PreferenceStore, path: Path) -> None:
    token = invite_person(store, "Ada", "annotator")
    client = client_of(store, annotator=None)
    assert client.get("/").status_code == 401
    assert client.post("/api/next", json={}).status_code == 401
    assert client.post("/api/enter", json={"token": token + "x"}).status_code == 403
    assert client.post("/api/enter", json={"token": 7}).status_code == 403
    entered = client.post("/api/enter", json={"token": token})
    cookie = entered.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "path=/;" in cookie
    secret = client.cookies["accord_session"]
    assert client.post("/api/next", json={}).status_code == 200
    assert client.get("/owner").status_code == 403
    stored = path.read_bytes() + path.with_name("prefs.db-wal").read_bytes()
    assert token.encode() not in stored  # hashes only
    assert secret.encode() not in stored
    revoke_person(store, "Ada")
    assert client.post("/api/next", json={}).status_code == 401
    assert client.post("/api/enter", json={"token": token}).status_code == 403


def test_only_an_owner_decides_beside_the_votes(store: PreferenceStore) -> None:
    clients = {}
    for name, role in (("Ada", "annotator"), ("Eve", "owner")):
        clients[name] = client_of(store, annotator=None)
        token = invite_person(store, name, role)  # type: ignore[arg-type]
        clients[name].post("/api/enter", json={"token": token})
    ada, eve = clients["Ada"], clients["Eve"]
    assert ada.post("/api/next", json={}).json()["item"] == 1
    # What she asks for is an item to vote on, and what she says is a vote.
    assert ada.post("/api/next", json={"adjudicate": 3}).json()["item"] == 1
    vote = {**body("vote"), "item": 1, "adjudicates": True}
    assert ada.post("/api/answer", json=vote).status_code == 200
    assert store.verdicts()[-1].annotator == "Ada"
    assert eve.post("/api/next", json={"adjudicate": 1}).json()["item"] == 1
    decision = {**body("decision"), "item": 1, "adjudicates": True}
    assert eve.post("/api/answer", json=decision).status_code == 200
    assert store.verdicts()[-1].annotator == "Eve (adjudicator)"


def test_leaving_ends_the_session(store: PreferenceStore) -> None:
    client = client_of(store, annotator=None)
    client.post("/api/enter", json={"token": invite_person(store, "Ada", "owner")})
    assert client.get("/owner").status_code == 200
    secret = client.cookies["accord_session"]
    client.post("/api/leave", json={})
    assert client.get("/", headers={"cookie": f"accord_session={secret}"}).status_code == 401


def test_a_new_invitation_replaces_the_old_one(store: PreferenceStore) -> None:
    client = client_of(store, annotator=None)
    old, new = (invite_person(store, "Ada", "annotator") for _ in range(2))
    assert client.post("/api/enter", json={"token": old}).status_code == 403
    assert client.post("/api/enter", json={"token": new}).status_code == 200


@pytest.mark.parametrize("prefix", ["/annotate", ""])  # the proxy passes it on, or strips it
@pytest.mark.parametrize("host", ["lab.example.org", "127.0.0.1:8100"])  # and the Host as well
def test_behind_a_proxy_below_a_path(store: PreferenceStore, prefix: str, host: str) -> None:
    client = client_of(store, PROXIED, annotator=None)
    token = invite_person(store, "Ada", "annotator")
    headers = {
        "host": host,
        "origin": "https://lab.example.org",
        "sec-fetch-site": "same-origin",
    }
    entered = client.post(f"{prefix}/api/enter", json={"token": token}, headers=headers)
    cookie = entered.headers["set-cookie"].lower()
    assert "path=/annotate/" in cookie
    assert "secure" in cookie
    session = {"cookie": entered.headers["set-cookie"].partition(";")[0], **headers}
    page = client.get(f"{prefix}/", headers=session)
    assert page.status_code == 200
    assert 'href="static/page.css"' in page.text  # relative: right below any path
    assert client.get(f"{prefix}/static/page.css", headers=headers).status_code == 200
    assert client.post(f"{prefix}/api/next", json={}, headers=session).status_code == 200
    elsewhere = {**session, "origin": "https://evil.example.org"}
    refused = client.post(f"{prefix}/api/next", json={}, headers=elsewhere)
    assert refused.status_code == 403
    assert "--public-url https://evil.example.org" in refused.json()["error"]


@pytest.mark.parametrize(
    "site", [Site("0.0.0.0", 80), Site("127.0.0.1", 80, "lab.example.org"), Site("x", 1, "ftp://x")]
)
def test_addresses_that_cannot_work(site: Site) -> None:
    with pytest.raises(RequestError, match="such as http"):
        check_site(site)


def test_text_of_models_is_never_markup(store: PreferenceStore) -> None:
    evil = "</pre><script>alert(1)</script><img src=x onerror=alert(1)>\u202e"
    store.add_responses([Response(evil, f"{evil} {i}", f"{evil}{i}") for i in range(2)])
    client = client_of(store, models=[f"{evil}0", f"{evil}1"], name=evil[:20], question=evil)
    html = client.post("/api/next", json={}).json()["html"]
    client.post("/api/answer", json={**body("key"), "item": 1})
    for page in (html, client.get("/").text, client.get("/owner").text):
        assert "<img" not in page
        assert "<script>" not in page
        assert "\u202e" not in page
    again = client.post("/api/undo", json={}).json()
    rest = client.get(f"/api/difference?item={again['item']}").json()
    assert all("<script" not in each for each in rest["html"])


def test_a_long_response_is_sent_in_parts(store: PreferenceStore) -> None:
    long = "word " * 200_000 + "<end>"
    hidden = "No\N{RIGHT-TO-LEFT OVERRIDE}."  # a mark that turns the text behind it around
    store.add_responses([Response("Write.", long, "x-1"), Response("Write.", hidden, "x-2")])
    client = client_of(store, models=["x-1", "x-2"])
    shown = client.post("/api/next", json={}).json()
    assert len(shown["html"]) < 100_000
    texts = [client.get(f"/api/rest?item=1&response={i}").text for i in range(2)]
    assert sorted(texts) == sorted([long, "No⟦U+202E⟧."])
    assert client.get("/api/difference?item=1").json() == {"html": [None, None]}


def test_a_long_turn_is_sent_in_parts(store: PreferenceStore) -> None:
    """Under the number by which the page asks for it, and with its other fields."""
    calls = {"tool_calls": [{"name": "cook", "text": "rice " * 20_000}]}
    turns = (
        Message("user", "long " * 20_000),
        Message("assistant", "Cooking.", fields_json(calls)),
        Message("user", "Thanks."),
    )
    prompt = with_context(turns, {"tools": ["cook"]})
    store.add_responses([Response(prompt, f"{i}", f"x-{i}") for i in range(2)])
    client = client_of(store, models=["x-0", "x-1"])
    html = client.post("/api/next", json={}).json()["html"]
    asked = re.findall(r'data-rest="(turn=\d+)"', html)
    texts = [client.get(f"/api/rest?item=1&{each}").text for each in asked]
    assert len(texts) == 2
    assert texts[0] == "long " * 20_000
    assert texts[1].startswith("Cooking.\ntool_calls: ")
    assert len(texts[1]) > 100_000


def test_the_test_on_the_guidelines_comes_first(store: PreferenceStore) -> None:
    question = {"question": "What counts?", "answers": ["Length", "Truth"], "correct": 2}
    settings = AnnotateSettings.model_validate({"guidelines": "guide.md", "test": [question]})
    path = Path(store.path).with_name("guide.md")
    path.write_text("# Truth counts\n\n<script>alert(1)</script>")
    values = settings.model_dump() | {"guidelines": str(path)}
    client = client_of(store, guideline=path.read_text(), **values)
    page = client.get("/").text
    assert "What counts?" in page
    assert "<h1>Truth counts</h1>" in page
    assert "<script>alert" not in page
    assert client.post("/api/next", json={}).status_code == 400
    assert client.post("/api/test", json={"answers": [1]}).json() == {"wrong": [1]}
    assert client.post("/api/next", json={}).status_code == 400
    assert client.post("/api/test", json={"answers": [2]}).json() == {"wrong": []}
    assert client.post("/api/next", json={}).json()["item"] == 1
    client.post("/api/answer", json={**body("key"), "item": 1})
    assert store.verdicts()[0].guideline
    path.write_text("# Something else counts")  # another guideline: the test is due again
    assert client_of(store, **values).post("/api/next", json={}).status_code == 400
