"""The report's page in a browser: its slider, drawing, charts and links."""

import re

import chromium
import pytest
from computed_searches import (
    HOSTILE,
    accuracy,
    at_budget,
    bayesian,
    outcome,
    paper,
    run,
    save,
    some_fail,
)
from searches import wait_for
from test_report_page import TUNER, contrast, network_of

import keras_autoshrink as kas
from keras_autoshrink.cell import Cell

pytestmark = pytest.mark.skipif(chromium.PROGRAM is None, reason="there is no Chromium")

# What the page must say none of: exceptions, and messages on the console.
COMPLAINTS = {"Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium.chromium(tmp_path_factory.mktemp("profile")) as page:
        for domain in ("Runtime", "Log", "Network", "Page"):
            page.call(f"{domain}.enable")
        yield page


@pytest.fixture
def page(browser):
    browser.events.clear()
    yield browser
    assert not [event for event in browser.events if event["method"] in COMPLAINTS]
    requests = [e for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    addresses = {event["params"]["request"]["url"].split("#")[0] for event in requests}
    assert {a for a in addresses if not a.startswith(("data:", "about:"))} == {browser.address}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The records of a search, and its page."""
    search = run(bayesian(), some_fail)
    path = kas.write_report(save(search, tmp_path_factory.mktemp("finished")))
    return search.trajectory(), path


def show(page, path, width=1200):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    page.call("Emulation.setDeviceMetricsOverride", **size)
    page.address = path.as_uri()
    page.open("about:blank")  # or an address with another hash would be the same page
    page.events.clear()
    page.open(page.address)
    page.wait_for("footer", "Written by")
    page.wait_for("#where", "round")


def shown(page):
    """The round of the list that can be seen, the slider's, and the edges that are drawn."""
    visible = "[...document.querySelectorAll('section.round')].filter((e) => e.offsetHeight)"
    sections = page.evaluate(f"{visible}.map((e) => e.id)")
    edges = page.evaluate(
        "[...document.querySelectorAll('#cell path.kept, #cell path.added')]"
        ".map((e) => e.textContent.split(':')[0]).sort()"
    )
    return sections, page.text("#where"), edges


def edges_of(record):
    return sorted(f"{i}-{j}" for i, j in Cell.from_json(record["cell"]).live_edges)


def go_to(page, number):
    page.evaluate(f"slider.value = {number}; slider.dispatchEvent(new Event('input'))")


def dot_of(kind, number):
    """The dot of a round in the first chart, as an expression."""
    text = f"JSON.parse(data.textContent).points[e.dataset.point][0] === {number}"
    return f"[...document.querySelectorAll('[data-kind={kind}] use')].find((e) => {text})"


def middle(page, element):
    """Where the middle of an element is, once it can be seen, and the page has scrolled."""
    return page.evaluate(
        f"(async () => {{ const e = {element}; e.scrollIntoView({{ block: 'center' }});"
        "for (const _ of [1, 2]) await new Promise(requestAnimationFrame);"
        "const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2] })()"
    )


def test_the_slider_moves_by_keyboard(page, finished):
    records, path = finished
    show(page, path)
    last = records[-1]["round"]
    assert last > 3
    best = max(records, key=lambda r: (r["score"], -r["edges_left"]))["round"]
    assert shown(page) == ([f"round-{best}"], f"round {best} of {last}", edges_of(records[best]))
    page.evaluate("slider.focus()")
    moves = [("Home", 36, 0), ("ArrowRight", 39, 1), ("ArrowRight", 39, 2), ("ArrowLeft", 37, 1)]
    for key, code, number in [*moves, ("End", 35, last)]:
        page.press(key, code)
        expected = ([f"round-{number}"], f"round {number} of {last}", edges_of(records[number]))
        assert shown(page) == expected
        assert page.evaluate("slider.getAttribute('aria-valuetext')") == expected[1]
    # What is gone from the drawing says nothing.
    absent = page.evaluate(
        "[...document.querySelectorAll('#cell path.absent')]"
        ".map((e) => [getComputedStyle(e).pointerEvents, e.textContent])"
    )
    assert {(*each,) for each in absent} == {("none", "")}
    page.evaluate("play.focus()")
    page.press("Enter", 13, "\r")  # from the last round it begins at the first
    assert shown(page)[1] == f"round 0 of {last}"
    page.wait_for("#where", f"round 1 of {last}")
    assert page.text("#play") == "Pause"
    page.press("Enter", 13, "\r")
    assert page.text("#play") == "Play"


def test_a_link_to_a_round_works_again(page, finished):
    show(page, finished[1])
    for _ in range(2):
        page.click(*middle(page, "document.querySelector('a[href=\"#round-2\"]')"))
        page.wait_for("#where", "round 2 of")
        # The keys go on from there, where it can be seen.
        wait_for(lambda: page.evaluate("document.activeElement.id") == "slider")
        assert 0 < page.evaluate("slider.getBoundingClientRect().top") < 200
        page.press("ArrowRight", 39)
        assert shown(page)[0] == ["round-3"]
    page.evaluate("location.hash = '#round-1'")
    page.wait_for("#where", "round 1 of")


def test_pointing_at_a_dot_shows_its_values(page, finished):
    records, path = finished
    show(page, path)
    assert page.evaluate("tip.hidden")
    kinds = page.evaluate(
        "[...document.querySelectorAll('[data-kind]')].map((e) => e.dataset.kind)"
    )
    assert kinds == ["others", "front", "chosen", *(["others", "line", "chosen"] * 3)]
    x, y = middle(page, dot_of("line", 2))
    page.point_at(x + 3, y)
    page.wait_for("#tip", "round 2: ")
    text, record = page.text("#tip"), records[2]
    for value in (f"score {record['score']:.4f}", f"accuracy {record['objective']:.4f}"):
        assert value in text
    assert f"{record['macs']:,} MACs" in text
    assert " ".join(f"{i}-{j}" for i, j in record["cell"]["edges"]) in text
    # What is said of the same dot is said once.
    page.evaluate(
        "window.said = 0; new MutationObserver((all) => { window.said += all.length })"
        ".observe(tip, { childList: true, attributes: true })"
    )
    for step in (-3, -1, 2):
        page.point_at(x + step, y)
    assert page.evaluate("window.said") == 0
    page.click(x, y)
    assert shown(page)[0] == ["round-2"]
    page.point_at(5, 5)
    assert page.evaluate("tip.hidden")
    assert page.evaluate("document.querySelectorAll('.near').length") == 0


def test_keys_go_from_dot_to_dot(page, finished):
    records, path = finished
    show(page, path, width=390)
    page.evaluate("document.querySelector('.charts svg').focus()")
    page.press("ArrowRight", 39)
    assert page.text("#tip").startswith("round 0: complete cell\nscore")
    visited = [page.text("#tip")]
    scored = [c for r in records for c in r["candidates"] if c["score"] is not None]
    for _ in range(len(scored) + 3):
        page.press("ArrowRight", 39)
        visited.append(page.text("#tip"))
    rounds = [int(re.match(r"round (\d+)", text)[1]) for text in visited]
    assert rounds == sorted(rounds)
    for candidate in scored:
        assert any(f"score {candidate['score']:.4f}" in text for text in visited)
    assert page.evaluate("(b => b.left >= 0 && b.right <= 390)(tip.getBoundingClientRect())")
    page.press("Enter", 13, "\r")
    assert shown(page)[0] == [f"round-{rounds[-1]}"]
    page.press("Home", 36)
    assert page.text("#tip") == visited[0]
    page.press("Escape", 27)
    assert page.evaluate("tip.hidden")
    page.press("End", 35)
    assert page.text("#tip") == visited[-1]
    page.press("Tab", 9)
    assert page.evaluate("tip.hidden")


def test_a_finger_opens_a_tip_and_closes_it(page, finished):
    page.call("Emulation.setTouchEmulationEnabled", enabled=True)
    show(page, finished[1], width=390)
    for close in ("pointerdown", "scroll"):
        x, y = middle(page, dot_of("line", 2))
        page.tap(x + 2, y)
        page.wait_for("#tip", "round 2: ")
        assert page.evaluate("document.querySelectorAll('.near').length") == 1
        if close == "scroll":
            closed = "new Promise((done) => addEventListener('scroll', () => setTimeout(done)))"
            page.evaluate(
                f"(() => {{ const closed = {closed}; scrollBy(0, 50); return closed }})()"
            )
        else:
            # Not all browsers take the focus from the chart, by which it would close, too.
            down = "new PointerEvent('pointerdown', { bubbles: true })"
            page.evaluate(f"document.querySelector('h1').dispatchEvent({down})")
        assert page.evaluate("tip.hidden")
        assert page.evaluate("document.querySelectorAll('.near').length") == 0
    page.call("Emulation.setTouchEmulationEnabled", enabled=False)


@pytest.mark.parametrize("width", [390, 1200])
def test_hostile_names_are_only_text_and_fit_the_screen(page, tmp_path, width):
    kas.register_operation("a" * 60)(lambda x, filters, name: x)
    search = paper(Cell.dense(("input", "a" * 60, "conv1x1", "conv1x1", "a" * 60)))
    run(search, lambda cell: some_fail(cell) if len(cell.edges) < 10 else outcome(cell))
    assert HOSTILE in str(search.trajectory())
    folder = tmp_path / HOSTILE.replace("/", "_")
    command = {"argv": ["autoshrink", "search", HOSTILE, "y" * 300], HOSTILE: HOSTILE}
    show(page, kas.write_report(save(search, folder, HOSTILE, settings=command)), width)
    assert page.evaluate("typeof stolen") == "undefined"
    assert page.text("h1") == folder.name
    assert page.text("pre").startswith("autoshrink search '</script>")
    assert HOSTILE in page.evaluate("rounds.textContent")
    for number in range(int(page.evaluate("slider.max")) + 1):
        go_to(page, number)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    # Letters of drawings can be read.
    sizes = page.evaluate(
        "[...document.querySelectorAll('svg text')].map((e) => "
        "parseFloat(getComputedStyle(e).fontSize) * e.ownerSVGElement.getScreenCTM().a)"
    )
    assert 10 < min(sizes) <= max(sizes) < 17


def test_a_search_at_a_budget_on_a_phone(page, tmp_path):
    search = run(at_budget(), accuracy(0.65))
    cell = Cell.dense(("input", *["sepconv3x3"] * 5))
    others = {"tuner0": TUNER, "architecture": network_of(cell)}
    show(page, kas.write_report(save(search, tmp_path, **others)), width=390)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    # What is wider than the screen has a box that the keys can reach, and scroll.
    assert page.evaluate(
        "[...document.querySelectorAll('table, .found svg')].every((e) => { const b = "
        "e.closest('.scrolls'); return b.tabIndex === 0 && b.scrollWidth >= e.clientWidth &&"
        "b.clientWidth <= 358 })"
    )
    sizes = page.evaluate(
        "[...document.querySelectorAll('.found text')].map((e) => e.getBBox().width)"
    )
    assert max(sizes) < 104
    # From network to network, each once, whatever marks it.
    page.evaluate("document.querySelector('.answer svg').focus()")
    visited = []
    while not visited or page.text("#tip") != visited[-1]:
        visited.append(page.text("#tip"))
        page.press("ArrowRight", 39)
    networks = {
        (p.network, p.epochs) for p in (c.cell for r in search.rounds for c in r.candidates)
    }
    assert len({*visited[1:]}) == len(visited) - 1 == len(networks)


def test_a_search_of_one_round_in_the_dark(page, tmp_path):
    search = run(paper(keep_fraction=1), lambda cell: outcome(cell, latency_ms=0.25))
    page.emulate(prefers_color_scheme="dark", prefers_reduced_motion="reduce")
    show(page, kas.write_report(save(search, tmp_path)))
    assert shown(page)[:2] == (["round-0"], "round 0 of 0")
    assert page.evaluate("[play.disabled, slider.disabled]") == [True, True]
    assert "0.25" in page.text(".tiles")
    page.point_at(*middle(page, dot_of("chosen", 0)))
    page.wait_for("#tip", "latency 0.25 ms")
    styles = page.evaluate(
        "['body', '#tip', '#cell text', '.chart text', '.chart use'].map((each) => {"
        "const style = getComputedStyle(document.querySelector(each));"
        "return each[0] === '#' && each !== '#cell text' || each === 'body'"
        " ? [style.backgroundColor, style.color] : [null, style.fill] })"
    )
    paper_colour = styles[0][0]
    for ground, ink in styles:
        colours = (re.findall(r"\d+", each) for each in (ground or paper_colour, ink))
        ground, ink = ("#" + "".join(f"{int(v):02x}" for v in each[:3]) for each in colours)
        assert contrast("#000000", ground) < 2
        assert contrast(ink, ground) >= 4.5
    moves = "getComputedStyle(document.querySelector('#cell g g')).transitionDuration"
    assert page.evaluate(moves) == "0s"
    page.emulate(prefers_color_scheme="light", prefers_reduced_motion="no-preference")
    assert page.evaluate(moves) != "0s"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
