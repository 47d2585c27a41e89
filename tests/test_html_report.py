"""The report of a search as an HTML page: what is in it, and what a browser makes of it."""

import html.parser
import itertools
import json
import re
import sys

import chromium
import numpy as np
import pytest
from test_shrink import dense, outcome, papers, run

import keras_autoshrink as kas
from keras_autoshrink import run_record, search_state
from keras_autoshrink.cell import Cell
from keras_autoshrink.op_names import declare_operation
from keras_autoshrink.trajectory import Outcome

HOSTILE = "</script><script>window.stolen = 1</script><img src=x onerror='stolen = 1'>&amp;"


def bayesian(**settings):
    return dense(strategy="bayesian", num_candidates=4, max_candidates=21, **settings)


def some_fail(cell):
    """As `outcome`, but of some networks a failure, and of some over a limit."""
    found = outcome(cell)
    if len(cell.edges) < 28 and found.objective < 0.2:
        return Outcome(None, error=f"ValueError: {HOSTILE}")
    if len(cell.edges) < 28 and found.objective < 0.4:
        return Outcome(None, macs=99, over_limit="99 MACs, at most 98")
    return found


def saved(search, folder):
    folder.mkdir(exist_ok=True)
    (folder / "oracle.json").write_text(json.dumps({"search": search_state.to_json(search)}))
    return folder


class Texts(html.parser.HTMLParser):
    """The text of a page by the element with an id that it is in, and all attributes."""

    def __init__(self, page):
        super().__init__()
        self.texts, self.attributes, self._open = {}, [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.attributes.append((tag, attributes))
        self._open.append((tag, attributes.get("id", "")))

    def handle_startendtag(self, tag, attributes):
        self.attributes.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        for _, name in self._open:
            self.texts[name] = self.texts.get(name, "") + data + " "


def read(path):
    page = path.read_text(encoding="utf-8")
    texts = Texts(page)
    return page, texts, json.loads(texts.texts["data"])


@pytest.mark.parametrize("made", [bayesian, dense], ids=["bayesian", "paper"])
def test_all_rounds_and_candidates_are_in_it(made, tmp_path):
    search = made()
    run(search, some_fail)
    path = kas.write_report(saved(search, tmp_path))
    assert path == tmp_path / "report.html"
    page, texts, data = read(path)
    assert len(page) < 1_000_000
    records = search.trajectory()
    assert data["numbers"] == [record["round"] for record in records]
    for record, drawn in zip(records, data["rounds"], strict=True):
        there = {(*e["ends"],) for e in drawn["edges"] if e["kind"] in ("kept", "added")}
        assert there == set(Cell.from_json(record["cell"]).live_edges)
        text = texts.texts[f"round-{record['round']}"]
        for candidate in record["candidates"]:
            for value in (candidate["error"], candidate.get("over_limit")):
                assert value is None or value in text
            if candidate["score"] is not None:
                assert f"{candidate['score']:.4f}" in text
    for before, after in itertools.pairwise(records):
        drawn = data["rounds"][after["round"]]["edges"]
        kinds = {(*e["ends"],): e["kind"] for e in drawn}
        gone, here = (set(Cell.from_json(r["cell"]).live_edges) for r in (before, after))
        assert {e for e, kind in kinds.items() if kind in ("removed", "dead")} == gone - here
        assert {e for e, kind in kinds.items() if kind == "added"} == here - gone
        removed = after.get("removed_edges", [after["removed_edge"]])
        assert {(*e,) for e in removed} >= {e for e, k in kinds.items() if k == "removed"}


def test_nothing_in_it_comes_from_elsewhere(tmp_path):
    search = bayesian()
    run(search, some_fail)
    page, texts, _ = read(kas.write_report(saved(search, tmp_path)))
    for tag, attributes in texts.attributes:
        for name in ("src", "href", "action", "style", *(n for n in attributes if n[:2] == "on")):
            value = attributes.get(name) or "#"
            assert value.startswith("#") or (tag, value) == ("link", "data:,"), (tag, attributes)
    assert set(re.findall(r"https?://[\w./]+", page)) == {"http://www.w3.org/2000/svg"}
    policy = next(a["content"] for t, a in texts.attributes if t == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy


@pytest.mark.parametrize(("objective", "sign"), [("accuracy", -1), ("perplexity", 1)])
def test_the_pareto_front_goes_by_the_direction_of_the_objective(objective, sign, tmp_path):
    search = bayesian()
    run(search, some_fail)
    page, *_ = read(kas.write_report(saved(search, tmp_path), objective=objective))
    found = [c for r in search.trajectory() for c in r["candidates"] if c["score"] is not None]
    values = {(c["macs"], sign * c["objective"]) for c in found}
    front = {
        (macs, value)
        for macs, value in values
        if not any(m <= macs and v <= value and (m, v) != (macs, value) for m, v in values)
    }
    drawn = re.search(r'data-kind="front".*?</g>\s*(?=<g)', page, re.S)[0]
    texts = re.findall(rf"{objective} ([\d.]+)\n([\d,]+) MACs", drawn)
    assert [*texts] == [(f"{sign * value:.4f}", f"{macs:,}") for macs, value in sorted(front)]


def test_a_recurrent_search_is_of_perplexity(tmp_path):
    search = papers(Cell.dense(("input", "tanh", "relu", "sigmoid")))
    run(search)
    page, *_ = read(kas.write_report(saved(search, tmp_path)))
    assert "perplexity (less is better)" in page
    assert "accuracy" not in page


def test_a_search_under_way_shows_its_open_round(tmp_path):
    search = dense(num_candidates=3)
    search.tell(search.cell, outcome(search.cell))
    search.tell(search.pending()[0].cell, Outcome(None, error="boom"))
    _, texts, data = read(kas.write_report(saved(search, tmp_path)))
    assert data["numbers"] == [0, 1]
    assert "This search is in round 1" in texts.texts[""]
    assert "under way" in texts.texts["round-1"]
    assert texts.texts["round-1"].count("not trained yet") == 2
    assert "boom" in texts.texts["round-1"]


@pytest.mark.parametrize("rounds", [0, 1])
def test_a_search_that_failed_says_why(rounds, tmp_path):
    search = dense(num_candidates=2)
    if rounds:
        search.tell(search.cell, outcome(search.cell))
    run(search, lambda cell: Outcome(None, error="OutOfMemory: too large"))
    _, texts, data = read(kas.write_report(saved(search, tmp_path)))
    assert "This search failed" in texts.texts[""]
    assert "OutOfMemory: too large" in texts.texts[f"round-{rounds}"]
    assert data["numbers"] == [*range(rounds + 1)]


def test_a_search_without_macs_is_reported_without_them(tmp_path):
    search = dense(num_candidates=2, keep_fraction=0.9)
    run(search, lambda cell: Outcome(len(cell.edges)))
    page, *_ = read(kas.write_report(saved(search, tmp_path)))
    assert page.count("<figcaption>") == 2  # the cell and the score


def test_a_script_s_search_says_what_it_was_given(tmp_path):
    x = np.random.default_rng(0).normal(size=(64, 8, 8, 1)).astype("float32")
    y = np.arange(64) % 2
    hypermodel = kas.CNNCellHyperModel((8, 8, 1), classes=2, num_nodes=3, filters=4)
    tuner = kas.AutoShrink(
        hypermodel, num_candidates=2, max_candidates=3, directory=tmp_path, project_name="s"
    )
    with pytest.raises(ValueError, match=r"s: holds no search|not begun"):
        kas.write_report(tuner)
    tuner.search(x, y, validation_data=(x, y), epochs=1, batch_size=32, verbose=0)
    _, texts, _ = read(kas.write_report(tuner, tmp_path / "here.html"))
    text = texts.texts[""]
    assert "A script has run it" in text
    for given in ("AccuracyScore(weight=0.1)", "max_candidates=3", "epochs=1", "batch_size=32"):
        assert given in text
    import keras

    assert run_record.read(tmp_path / "s")["versions"] == [run_record.versions()]
    assert keras.__version__ in text
    assert keras.backend.backend() in text


def test_a_record_keeps_the_command_and_all_versions(tmp_path, monkeypatch):
    folder = tmp_path / "search"
    run_record.note_command(folder, ["autoshrink", "search", "--overwrite", "--nodes", "4"])
    for _ in range(2):
        run_record.note_versions(folder)
    monkeypatch.setattr(kas, "__version__", "0.2")
    run_record.note_versions(folder)
    record = run_record.read(folder)
    assert record["command"] == ["autoshrink", "search", "--nodes", "4"]
    assert [each["keras_autoshrink"] for each in record["versions"]] == ["0.1.0", "0.2"]
    assert record["versions"][0]["python"] == sys.version.split()[0]


@pytest.mark.parametrize("content", ['{"versions"', '{"versions": 3}', '{"command": [1]}', "[]"])
def test_a_damaged_record_is_named_and_stops_no_search(tmp_path, content):
    search = dense(keep_fraction=0.95)
    run(search)
    (saved(search, tmp_path) / "run.json").write_text(content)
    with pytest.raises(ValueError, match=r"run.json: damaged: .*; delete it: nothing but a report"):
        kas.write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()
    run_record.note_versions(tmp_path)
    kas.write_report(tmp_path)


@pytest.fixture
def page(tmp_path):
    if chromium.PROGRAM is None:
        pytest.skip("there is no chromium")
    with chromium.chromium(tmp_path / "profile") as page:
        for domain in ("Runtime", "Log", "Network", "Page"):
            page.call(f"{domain}.enable")
        yield page
        said = {"Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"}
        assert not [event for event in page.events if event["method"] in said]
        requests = [e for e in page.events if e["method"] == "Network.requestWillBeSent"]
        addresses = {event["params"]["request"]["url"].split("#")[0] for event in requests}
        assert {a for a in addresses if not a.startswith("data:")} == {page.address}


def open_report(page, search, folder, width=1200):
    path = kas.write_report(saved(search, folder))
    page.call(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=900,
        deviceScaleFactor=1,
        mobile=width < 500,
    )
    page.address = path.as_uri()
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


def test_the_slider_moves_by_keyboard(page, tmp_path):
    search = bayesian()
    run(search, some_fail)
    open_report(page, search, tmp_path / "search")
    records = search.trajectory()
    last = records[-1]["round"]
    assert last > 3
    best = search.best()["round"]
    assert shown(page) == ([f"round-{best}"], f"round {best} of {last}", edges_of(records[best]))
    page.evaluate("document.getElementById('slider').focus()")
    for key, code, number in (
        ("Home", 36, 0),
        ("ArrowRight", 39, 1),
        ("ArrowRight", 39, 2),
        ("ArrowLeft", 37, 1),
        ("End", 35, last),
    ):
        page.press(key, code)
        expected = ([f"round-{number}"], f"round {number} of {last}", edges_of(records[number]))
        assert shown(page) == expected
        assert page.evaluate("slider.getAttribute('aria-valuetext')") == expected[1]
    page.evaluate("document.getElementById('play').focus()")
    page.press("Enter", 13, "\r")  # from the last round it begins at the first
    assert shown(page)[1] == f"round 0 of {last}"
    page.wait_for("#where", f"round 1 of {last}")
    assert page.text("#play") == "Pause"
    page.press("Enter", 13, "\r")
    assert page.text("#play") == "Play"
    page.evaluate("location.hash = '#round-2'")
    page.wait_for("#where", f"round 2 of {last}")


def test_pointing_at_a_dot_shows_its_values(page, tmp_path):
    search = bayesian()
    run(search, some_fail)
    open_report(page, search, tmp_path / "search")
    record = search.trajectory()[2]
    assert page.evaluate("tip.hidden")
    kinds = page.evaluate(
        "[...document.querySelectorAll('[data-kind]')].map((e) => e.dataset.kind)"
    )
    assert kinds == [*(["others", "line", "chosen"] * 3), "others", "front", "chosen"]
    dot = 'document.querySelector(\'[data-kind="line"] use[data-round="2"]\')'
    page.evaluate(f"{dot}.scrollIntoView({{block: 'center'}})")
    x, y = page.evaluate(
        f"(() => {{ const b = {dot}.getBoundingClientRect();"
        "return [b.x + b.width / 2, b.y + b.height / 2] })()"
    )
    page.point_at(x + 3, y)
    page.wait_for("#tip", "round 2: ")
    text = page.text("#tip")
    for value in (f"score {record['score']:.4f}", f"accuracy {record['objective']:.4f}"):
        assert value in text
    assert f"{record['macs']:,} MACs" in text
    assert " ".join(edges_of(record)) in text
    for kind in ("mousePressed", "mouseReleased"):
        page.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
    assert shown(page)[0] == ["round-2"]
    page.point_at(5, 5)
    assert page.evaluate("tip.hidden")


@pytest.mark.parametrize("width", [390, 1200])
def test_hostile_names_are_only_text_and_the_page_is_no_wider_than_the_screen(
    page, tmp_path, width
):
    declare_operation("a" * 60)
    search = papers(Cell.dense(("input", "a" * 60, "conv1x1", "conv1x1", "a" * 60)))
    run(search, lambda cell: some_fail(cell) if len(cell.edges) < 10 else outcome(cell))
    assert HOSTILE in str(search.trajectory())
    folder = tmp_path / HOSTILE.replace("/", "_")
    open_report(page, search, folder, width)
    (folder / "settings.json").write_text(json.dumps({HOSTILE: HOSTILE, "long": "x" * 300}))
    run_record.note_command(folder, ["autoshrink", "search", HOSTILE, "y" * 300])
    page.events.clear()
    open_report(page, search, folder, width)
    assert page.evaluate("typeof stolen") == "undefined"
    assert page.text("h1") == folder.name
    assert page.text("pre").startswith("autoshrink search '</script>")
    assert HOSTILE in page.evaluate("rounds.textContent")
    slider = "document.getElementById('slider')"
    for number in range(int(page.evaluate(f"{slider}.max")) + 1):
        page.evaluate(f"{slider}.value = {number}; {slider}.dispatchEvent(new Event('input'))")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
