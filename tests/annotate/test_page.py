"""The page in Chromium, by keys alone: nothing is lost, nothing doubled, nothing harmed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accord.annotate.start import invite_person
from accord.compare.store.store import PreferenceStore
from accord.records import Response
from tests.annotate.browsers import press, serving, tab, wait_for_done
from tests.annotate.desks import fill


def verdicts(path: Path) -> list[Any]:
    with PreferenceStore.read(path) as store:
        return store.verdicts(history=True)


def test_pairs_by_keys_alone(path: Path, browser: Any) -> None:
    with serving(path, "tags=[wrong,rude]") as server, tab(browser, server) as page:
        wait_for_done(page, 0)
        press(page, "e")
        assert page.locator("#folded").evaluate("each => each.open")  # the earlier turns
        press(page, "ArrowRight", "c")
        page.keyboard.type("so so 1")
        press(page, "Escape", "t", "Space", "Escape", "r", "3")
        wait_for_done(page, 1)
        first = verdicts(path)[-1]
        right = max(first.items, key=lambda item: item.shown)
        assert right.rank == 0
        assert (first.strength, first.comment, first.tags) == (3, "so so 1", ("wrong",))
        assert (first.view, first.annotator != "") == ("raw", True)
        press(page, "ArrowUp", "Enter")
        wait_for_done(page, 2)
        press(page, "u")
        page.get_by_text("You are changing an answer").wait_for()
        press(page, "ArrowDown", "ArrowDown")
        page.get_by_text("You are changing").wait_for(state="detached")
        press(page, "s", "3")
        page.get_by_text("Nothing is left for you here").wait_for()
    outcomes = [(v.outcome, v.reason) for v in verdicts(path)]
    assert outcomes[1:] == [("tie", None), ("both_bad", None), ("skip", "Too long")]
    assert verdicts(path)[2].supersedes == verdicts(path)[1].id


def test_a_ranking_by_keys_and_by_dragging(tmp_path: Path, browser: Any) -> None:
    path = tmp_path / "rank.db"
    fill(path, prompts=2, models=("a-1", "b-1", "c-1", "d-1"))
    with serving(path, "task=rankings", "size=4") as server, tab(browser, server) as page:
        wait_for_done(page, 0)
        press(page, "2", "1", "2", "ArrowRight", "4", "Enter")
        wait_for_done(page, 1)
        chips = page.locator(".order li")
        start, end = chips.nth(3).bounding_box(), chips.nth(0).bounding_box()
        page.mouse.move(start["x"] + 10, start["y"] + 10)
        page.mouse.down()
        page.mouse.move(end["x"] + 5, end["y"] + 10, steps=8)
        page.mouse.up()
        press(page, "Enter")
        page.get_by_text("Nothing is left for you here").wait_for()
    by_position = [[i.rank for i in sorted(v.items, key=lambda i: i.shown)] for v in verdicts(path)]
    assert by_position == [[1, 0, 1, 3], [1, 2, 3, 0]]


def test_labels_by_keys_alone(path: Path, browser: Any) -> None:
    with serving(path, "task=labels") as server, tab(browser, server) as page:
        for done, keys in enumerate((("ArrowUp", "Enter"), ("ArrowDown", "ArrowDown"))):
            wait_for_done(page, done)
            press(page, *keys)
        wait_for_done(page, 2)
    assert [v.items[0].score for v in verdicts(path)] == [1.0, 0.0]


def test_a_reload_in_mid_item_forgets_nothing(path: Path, browser: Any) -> None:
    with serving(path) as server, tab(browser, server) as page:
        wait_for_done(page, 0)
        order = page.locator(".response .rendered").all_text_contents()
        press(page, "ArrowRight", "c")
        page.keyboard.type("half a tho")
        page.reload()
        wait_for_done(page, 0)
        assert page.locator(".response .rendered").all_text_contents() == order
        assert page.locator("#comment").input_value() == "half a tho"
        press(page, "Enter")
        wait_for_done(page, 1)
        assert page.locator("#comment").input_value() == ""
    assert [v.comment for v in verdicts(path)] == ["half a tho"]


def test_the_server_is_killed_between_votes(path: Path, browser: Any) -> None:
    with serving(path) as server, tab(browser, server) as page:
        wait_for_done(page, 0)
        press(page, "ArrowLeft", "1")
        wait_for_done(page, 1)
        server.kill()
        press(page, "ArrowRight", "2")
        page.get_by_text("The server does not answer").wait_for()
        server.start()
        wait_for_done(page, 2)
        assert not page.locator("#trouble").is_visible()
        press(page, "ArrowRight", "3")
        page.get_by_text("Nothing is left for you here").wait_for()
    assert [v.strength for v in verdicts(path)] == [1, 2, 3]
    assert len({v.key for v in verdicts(path)}) == 3


def test_the_page_is_closed_before_the_server_answers(path: Path, browser: Any) -> None:
    """The browser has the answer, and sends it when the page is opened again."""
    with serving(path) as server:
        context = browser.new_context()
        page = context.new_page()
        page.goto(server.url)
        wait_for_done(page, 0)
        server.kill()
        press(page, "ArrowLeft", "2")
        page.get_by_text("The server does not answer").wait_for()
        page.close()
        assert verdicts(path) == []
        server.start()
        page = context.new_page()
        page.goto(server.url)
        wait_for_done(page, 1)
        context.close()
    assert [v.strength for v in verdicts(path)] == [2]


def test_a_browser_that_stores_nothing_loses_nothing(path: Path, browser: Any) -> None:
    refuses = "Storage.prototype.setItem = () => { throw new Error('full') }"
    with serving(path) as server, tab(browser, server) as page:
        page.context.add_init_script(refuses)
        page.reload()
        wait_for_done(page, 0)
        press(page, "ArrowLeft", "1")
        wait_for_done(page, 1)
        server.kill()
        press(page, "ArrowRight", "2")
        page.get_by_text("The server does not answer").wait_for()
        server.start()
        wait_for_done(page, 2)
    assert [v.strength for v in verdicts(path)] == [1, 2]


def test_two_tabs(path: Path, browser: Any) -> None:
    with serving(path) as server, tab(browser, server) as one:
        wait_for_done(one, 0)
        two = one.context.new_page()
        two.goto(server.url)
        wait_for_done(two, 0)
        press(one, "ArrowLeft", "1")
        wait_for_done(one, 1)
        press(two, "ArrowRight", "2")  # on the item that is judged already
        two.locator("#trouble").get_by_text("answered this item already").wait_for()
        wait_for_done(two, 1)
        press(two, "ArrowRight", "3")
        wait_for_done(two, 2)
    assert [v.strength for v in verdicts(path)] == [1, 3]


def test_hostile_text_harms_nothing(tmp_path: Path, browser: Any) -> None:
    path = tmp_path / "evil.db"
    evil = (
        "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
        "<svg onload=alert(1)> ![x](http://evil.example/x.png) [y](javascript:alert(1)) \u202egnp\n"
        "</div></section></main><style>*{display:none}</style>\n\n" + "z" * 1_000_000
    )
    with PreferenceStore.open(path) as store:
        store.add_responses([Response(evil, evil, "a-1"), Response(evil, evil + "!", "b-1")])
    with serving(path) as server, tab(browser, server) as page:
        wait_for_done(page, 0)
        for key in "rrdde":
            press(page, key)
            page.wait_for_function(
                "() => !document.getElementById('item').hasAttribute('aria-busy')"
            )
        page.get_by_text("more characters").last.click()
        page.wait_for_function("() => document.body.textContent.length > 1000000")
        assert "accord annotate" in page.title()
        assert page.locator("#item img, #item a, #item script, #item svg, #item style").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert "\u202e" not in page.locator("#item").text_content()
        press(page, "ArrowLeft", "1")
        page.get_by_text("Nothing is left for you here").wait_for()
    assert len(verdicts(path)) == 1


def test_an_invitation_then_the_guidelines_then_the_items(path: Path, browser: Any) -> None:
    with PreferenceStore.open(path) as store:
        token = invite_person(store, "Ada", "owner")
    path.with_name("guide.md").write_text("# Be kind")
    task = path.with_name("task.yaml")
    task.write_text(
        f"guidelines: {path.with_name('guide.md')}\n"
        "test:\n- {question: How, answers: [Loudly, Kindly], correct: 2}\n"
    )
    with serving(path, "--tokens", "-c", str(task)) as server, tab(browser, server) as page:
        page.get_by_text("By invitation").wait_for()
        page.goto(server.url + f"enter#{token}x")
        page.get_by_text("not valid").wait_for()
        assert token not in page.url
        page.locator("#token").fill(f"{server.url}enter#{token}")  # the link can be pasted, too
        press(page, "Enter")
        page.get_by_text("Before you begin").wait_for()
        page.wait_for_load_state("networkidle")
        assert token not in page.url
        assert "#" not in page.url
        page.get_by_label("Loudly").focus()
        press(page, "Space", "Enter")
        page.get_by_text("Not quite").wait_for()
        press(page, "ArrowDown", "Enter")
        wait_for_done(page, 0)
        press(page, "ArrowLeft", "1")
        wait_for_done(page, 1)
        page.goto(server.url + "owner")
        page.get_by_role("row").filter(has_text="Ada").first.wait_for()
        page.goto(server.url + "?item=1")
        page.get_by_text("Which response is better?").wait_for()
        page.locator("#item:not([aria-busy])").wait_for()
        press(page, "ArrowUp", "Enter")
        page.wait_for_url("**/owner")
        page.goto(server.url)
        page.get_by_role("button", name="Leave").click()
        page.get_by_text("By invitation").wait_for()
    assert [(v.annotator, v.outcome == "tie") for v in verdicts(path)] == [
        ("Ada", False),
        ("Ada (adjudicator)", True),
    ]
