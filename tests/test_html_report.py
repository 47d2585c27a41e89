"""The report of a search as an HTML page: what is in it, and what a browser makes of it."""

import dataclasses
import html.parser
import itertools
import json
import re
import sys
import time
from pathlib import Path

import chromium
import numpy as np
import pytest
from matplotlib.colors import to_hex
from test_shrink import dense, outcome, papers, run

import keras_autoshrink as kas
from keras_autoshrink import run_record
from keras_autoshrink.cell import Cell
from keras_autoshrink.report import plots
from keras_autoshrink.report.charts import Point, Series, front, limits
from keras_autoshrink.report.tables import of_search
from keras_autoshrink.search import shrink
from keras_autoshrink.search.records import Outcome

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
    (folder / "oracle.json").write_text(json.dumps({"search": shrink.to_json(search)}))
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


def coarse(cell):
    """As `some_fail`, with many that are equal in objective and MACs."""
    found = some_fail(cell)
    if found.score is None:
        return found
    return dataclasses.replace(found, objective=round(found.objective, 1), macs=found.macs // 4)


def drawn(page, chart, kind):
    """The texts of the points of a kind in a chart, in the order in which they are drawn."""
    figure = re.search(rf"<figcaption>{chart}.*?</figure>", page, re.S)[0]
    found = re.search(rf'<g data-kind="{kind}".*?</g>\s*</g>', figure, re.S)
    texts = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])["points"]
    return [texts[int(n)] for n in re.findall(r'data-point="(\d+)"', found[0])] if found else []


@pytest.mark.parametrize(("objective", "sign"), [("accuracy", -1), ("Val_Perplexity", 1)])
@pytest.mark.parametrize("evaluate", [some_fail, coarse])
def test_the_pareto_front_goes_by_the_direction_of_the_objective(
    objective, sign, evaluate, tmp_path
):
    search = bayesian()
    run(search, evaluate)
    page, texts, _ = read(kas.write_report(saved(search, tmp_path), objective=objective))
    found = [c for r in search.trajectory() for c in r["candidates"] if c["score"] is not None]
    found = [c for c in found if not c["reused"]]
    values = [(c["macs"], sign * c["objective"]) for c in found]
    # On it is all that nothing beats, each of those that are equal, too.
    front = [
        (macs, value)
        for macs, value in values
        if not any(m <= macs and v <= value and (m, v) != (macs, value) for m, v in values)
    ]
    shown = drawn(page, f"{objective[0].upper()}{objective[1:]} against MACs", "front")
    points = [
        re.search(rf"{objective} ([\d.]+)\n([\d,]+) MACs", text).groups() for _, text in shown
    ]
    assert points == [(f"{sign * value:.4f}", f"{macs:,}") for macs, value in sorted(front)]
    assert ("less is better" in page) == (sign > 0)
    assert texts.texts["rounds"].count("Pareto front") == len(front)


def test_a_front_has_all_that_are_equal():
    quantities = of_search([], "accuracy", None)
    pairs = [(2, 0.5), (1, 0.5), (1, 0.5), (1, 0.4), (2, 0.6), (2, 0.6), (3, 0.6), (9, None)]
    found = [{"macs": macs, "objective": objective} for macs, objective in pairs]
    assert [found.index(each) for each in front(found, quantities)] == [1, 1, 4, 4]


def test_each_chart_says_what_its_colours_mean(tmp_path):
    search = bayesian()
    run(search, some_fail)
    page, *_ = read(kas.write_report(saved(search, tmp_path)))
    figures = re.findall(r"<figcaption>(.*?)</figcaption>.*?(<ul.*?</ul>)", page, re.S)
    legends = {title: re.findall(r"</i>(.*?)</li>", legend) for title, legend in figures[1:]}
    others = "other trained candidates"
    assert legends["Accuracy over the rounds"] == ["adopted", others, "chosen"]
    assert legends["Accuracy against MACs"] == ["on the Pareto front", others, "chosen"]


@pytest.mark.parametrize(
    ("objective", "less"),
    [
        *((name, True) for name in ("val_loss", "Loss", "MAE", "val_Perplexity", "root mse")),
        *((name, False) for name in ("val_accuracy", "AUC", "Recall", "val_acc")),
        # By the scores: less of this one goes with better ones.
        ("objective", True),
        ("mass", True),
    ],
)
def test_the_direction_is_the_name_s_or_else_the_scores(objective, less):
    values = [(0.5, 1.0, 10), (0.4, 2.0, 10), (0.9, 3.0, 5), (0.3, 4.0, 10)]
    candidates = [dict(zip(("score", "objective", "macs"), v, strict=True)) for v in values]
    stops = [{"candidates": candidates}]
    assert of_search(stops, objective, None).less == less


def test_an_objective_has_a_name_and_keeps_its_capitals(tmp_path):
    search = dense(num_candidates=2)
    run(search)
    for empty in ("", " "):
        with pytest.raises(ValueError, match=r"objective='.?': give the name of the metric"):
            kas.write_report(saved(search, tmp_path), objective=empty)
    assert not (tmp_path / "report.html").exists()
    page, *_ = read(kas.write_report(tmp_path, objective="val_AUC"))
    assert "Val_AUC over the rounds" in page
    assert "Val_AUC against MACs" in page


def test_a_network_that_diverged_does_not_flatten_the_others(tmp_path):
    search = dense(num_candidates=4)
    trained = []

    def one_diverges(cell):
        found = outcome(cell)
        trained.append(cell)
        perplexity = 50_000.0 if len(trained) == 6 else 150 + 20 * found.objective
        return dataclasses.replace(found, score=-perplexity / 4, objective=perplexity)

    run(search, one_diverges)
    page, *_ = read(kas.write_report(saved(search, tmp_path), objective="perplexity"))
    note = "1 far beyond this range, and not drawn; the tables have all."
    # Not of the MACs, and of the front only if it was on it.
    charts = dict(re.findall(r"<figcaption>([^<]*)</figcaption>(.*?)</figure>", page, re.S))
    noted = {title for title, content in charts.items() if note in content}
    assert noted >= {"Score over the rounds", "Perplexity over the rounds"}
    assert "MACs over the rounds" not in noted
    assert "50,000" not in page
    assert "50000" not in charts["Perplexity over the rounds"]
    assert "50000.0000" in page  # in the table of its round
    ys = [
        float(y)
        for y in re.findall(r'<use x="[\d.]+" y="([\d.]+)"[^>]*data-point', charts[min(noted)])
    ]
    assert max(ys) - min(ys) > 80  # of 173


def test_chosen_is_always_drawn():
    points = [Point(i, 1 + i / 100, i) for i in range(20)]
    others, chosen = Series("others", points), Series("chosen", [Point(3, 9.0, 20)])
    assert limits([others, chosen]) is None
    far = Series("others", [*points, Point(4, 99.0, 21)])
    assert limits([far, chosen]) == (1, 9.0)
    assert limits([Series("others", points[:5])]) is None


@pytest.mark.parametrize("costs", ["latency", "params", "callable"])
def test_the_cost_that_decides_is_on_the_page(costs, tmp_path):
    search = dense(num_candidates=2, keep_fraction=0.9)

    def costly(cell):
        edges = len(cell.edges)
        more = {"latency": {"latency_ms": edges / 8}, "callable": {"measured_cost": edges / 4}}
        return dataclasses.replace(outcome(cell), params=100 * edges, **more.get(costs, {}))

    run(search, costly)
    cost = ["size"] if costs == "callable" else costs
    settings = {"score": ["AccuracyScore", {"weight": 0.1, "cost": cost}]}
    (saved(search, tmp_path) / "tuner0.json").write_text(json.dumps(settings))
    measured = {"latency_ms": 1.0, "spread": 0.02, "measured_by": "LiteRT 2.0, 1 thread"}
    if costs == "latency":
        (tmp_path / "costs.json").write_text(json.dumps({"a": measured}))
    page, texts, data = read(kas.write_report(tmp_path))
    label = {"latency": "latency", "params": "parameters", "callable": "cost"}[costs]
    unit = ", ms" if costs == "latency" else ""
    best = search.best()
    value = {
        "latency": f"{best.get('latency_ms', 0):.4g}",
        "params": f"{best['params']:,}",
        "callable": f"{best.get('measured_cost', 0):.4g}",
    }[costs]
    said = f"{value} {label}" if costs == "params" else f"{label} {value}{unit[1:]}"
    assert f"<dt>{label}{unit}</dt><dd>{value}</dd>" in page
    assert said in texts.texts[f"round-{best['round']}"]
    assert said in dict(data["points"])[best["round"]]
    title = label[0].upper() + label[1:]
    assert f"<figcaption>{title} over the rounds</figcaption>" in page
    assert f"<figcaption>Accuracy against {label}</figcaption>" in page
    assert "Parameters over the rounds" not in page or costs == "params"
    assert ("LiteRT 2.0, 1 thread; 7 blocks of a file differ by 2%" in page) == (costs == "latency")


def test_a_round_that_adopted_nothing_says_so(tmp_path):
    search = bayesian()
    cells = []

    def second_round_fails(cell):
        cells.append(cell)
        failed = search.round.number == 2
        return Outcome(None, error="boom") if failed else outcome(cell)

    run(search, second_round_fails)
    page, texts, data = read(kas.write_report(saved(search, tmp_path)))
    assert "nothing adopted: the cell is still that of the round before" in texts.texts["round-2"]
    assert "nothing adopted" in re.search(r"<tbody><tr><th[^>]*><a href.*?</tbody>", page, re.S)[0]
    complete = [number for number, text in data["points"] if "complete cell" in text]
    assert complete == [0]
    assert texts.texts["rounds"].count("complete cell") == 2 + 1  # and its caption


def test_an_open_round_says_what_is_known(tmp_path):
    # Nodes 1 to 4 are alike: all cells that lack one of these edges are one network.
    search = papers(Cell(("input", *["conv1x1"] * 4), [(0, node) for node in range(1, 5)]))
    _, texts, _ = read(kas.write_report(saved(search, tmp_path)))
    assert "complete cell; 4 edges." in texts.texts["round-0"]
    assert "No network has a score yet" in texts.texts[""]
    search.tell(search.cell, Outcome(None, over_limit="4 MACs, at most 3", macs=4))
    _, texts, _ = read(kas.write_report(saved(search, tmp_path)))
    assert "the cell is still that of the round before" in texts.texts["round-1"]
    assert texts.texts["round-1"].count("not trained yet") == 4
    twin = "not trained yet , the same network as one before it"
    assert texts.texts["round-1"].count(twin) == 3


def test_scores_of_an_open_round_alone_are_drawn(tmp_path):
    search = dense(num_candidates=3)
    search.tell(search.cell, Outcome(None, over_limit="29 MACs, at most 28", macs=29))
    search.tell(search.pending()[0].cell, outcome(search.pending()[0].cell))
    page, texts, _ = read(kas.write_report(saved(search, tmp_path)))
    assert "No round has adopted a network yet" in texts.texts[""]
    assert "Accuracy over the rounds" in page
    assert not re.search(r'aria-labelledby="curves" hidden', page)


def test_each_text_is_once_in_a_large_page(tmp_path):
    ops = ("input", *["sepconv3x3", "conv1x1"] * 5, "conv1x1")
    search = papers(Cell.dense(ops), num_candidates=20, keep_fraction=0.85)
    networks = len(run(search))
    page, _, data = read(kas.write_report(saved(search, tmp_path)))
    assert len({text for _, text in data["points"]}) == len(data["points"]) <= 1.1 * networks
    assert page.count(data["points"][0][1].replace("\n", "\\n")) == 1
    assert len(page) < 100_000 + 1_400 * networks


def test_an_op_has_one_colour_everywhere(tmp_path):
    search = papers(Cell.dense(("input", "tanh", "zeta", "identity", "sigmoid", "relu")))
    run(search)
    *_, data = read(kas.write_report(saved(search, tmp_path)))
    assert data["colours"] == plots.colours(search.cell.ops)
    figure = kas.plot_cell(search.cell)
    colours = list(map(to_hex, figure.axes[0].collections[0].get_facecolors()))
    assert colours[1:6] == [data["colours"][op].lower() for op in search.cell.ops[1:]]
    assert len({*data["colours"].values()}) == 5


def rules(css, start):
    block = css[css.index(start) :]
    return dict(re.findall(r"--(\w+): (#\w+);", block[: block.index("}")]))


def contrast(one, other):
    """As WCAG 2 has it."""
    lights = []
    for colour in (one, other):
        values = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        parts = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
        lights.append(sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), parts, strict=True)))
    return (max(lights) + 0.05) / (min(lights) + 0.05)


@pytest.mark.parametrize("start", [":root {", "@media (prefers-color-scheme: dark)"])
def test_colours_stand_out(start):
    css = (Path(kas.__file__).parent / "report_page" / "report.css").read_text()
    colours = rules(css, start)
    for one, other in [
        *((ink, ground) for ink in ("ink", "faint") for ground in ("paper", "panel", "rule")),
        *((ink, "paper") for ink in ("accent", "warn")),
        *(("paper", mark) for mark in ("chosen", "line")),
    ]:
        assert contrast(colours[one], colours[other]) >= 4.5, (one, other)
    for one, other in [
        *((dot, "paper") for dot in ("line", "others", "chosen", "accent")),
        *((edge, "panel") for edge in ("faint", "warn", "good", "accent")),
    ]:
        assert contrast(colours[one], colours[other]) >= 3, (one, other)
    # What is said in letters keeps their colour.
    assert not re.search(r"(?<!absent )\{[^}]*opacity: 0\.\d", css)


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


def test_a_link_to_a_round_works_again(page, tmp_path):
    search = bayesian()
    run(search, some_fail)
    open_report(page, search, tmp_path / "search")
    for _ in range(2):
        page.click(*middle(page, "document.querySelector('a[href=\"#round-2\"]')"))
        page.wait_for("#where", "round 2 of")
        # The keys go on from there, where it can be seen.
        assert page.evaluate("document.activeElement.id") == "slider"
        top = page.evaluate("slider.getBoundingClientRect().top")
        assert 0 < top < 200
        page.press("ArrowRight", 39)
        assert shown(page)[0] == ["round-3"]
    page.evaluate("history.back()")  # the address of before any link
    page.evaluate("location.hash = '#round-1'")
    page.wait_for("#where", "round 1 of")


def test_keys_go_from_dot_to_dot(page, tmp_path):
    search = bayesian()
    run(search, some_fail)
    open_report(page, search, tmp_path / "search", width=390)
    records = search.trajectory()
    texts = page.evaluate("JSON.parse(data.textContent).points")
    page.evaluate("document.querySelector('.chart svg').focus()")
    page.press("ArrowRight", 39)
    assert page.text("#tip").startswith("round 0: complete cell\nscore")
    visited = [page.text("#tip")]
    scored = [c for r in records for c in r["candidates"] if c["score"] is not None]
    for _ in range(len(scored) + 3):
        page.press("ArrowRight", 39)
        visited.append(page.text("#tip"))
    rounds = [int(re.match(r"round (\d+)", text)[1]) for text in visited]
    assert rounds == sorted(rounds)
    assert {*visited} <= {text for _, text in texts}
    for candidate in scored:
        assert any(f"score {candidate['score']:.4f}" in text for text in visited)
    assert page.evaluate("(b => b.left >= 0 && b.right <= 390)(tip.getBoundingClientRect())")
    page.press("Enter", 13, "\r")
    assert shown(page)[0] == [f"round-{rounds[-1]}"]
    page.press("ArrowLeft", 37)
    assert page.text("#tip") in visited[:-1]
    page.press("Home", 36)
    assert page.text("#tip") == visited[0]
    page.press("Escape", 27)
    assert page.evaluate("tip.hidden")
    page.press("End", 35)
    assert page.text("#tip") == visited[-1]
    page.press("Tab", 9)
    assert page.evaluate("tip.hidden")


def test_a_finger_opens_a_tip_and_closes_it(page, tmp_path):
    search = bayesian()
    run(search, some_fail)
    page.call("Emulation.setTouchEmulationEnabled", enabled=True)
    open_report(page, search, tmp_path / "search", width=390)
    for close in ("elsewhere", "scroll", "Escape"):
        x, y = middle(page, dot_of("line", 2))
        page.tap(x + 2, y)
        page.wait_for("#tip", "round 2: ")
        assert page.evaluate("document.querySelectorAll('.near').length") == 1
        if close == "elsewhere":
            # Not all browsers take the focus from the chart, by which it would close, too.
            down = "new PointerEvent('pointerdown', { bubbles: true })"
            page.evaluate(f"document.querySelector('h1').dispatchEvent({down})")
        elif close == "scroll":
            page.evaluate("scrollBy(0, 50)")
        else:
            page.press("Escape", 27)
        end = time.monotonic() + 30
        while not page.evaluate("tip.hidden"):
            assert time.monotonic() < end, close
        assert page.evaluate("document.querySelectorAll('.near').length") == 0


def test_what_is_gone_from_the_drawing_says_nothing(page, tmp_path):
    search = bayesian()
    run(search, some_fail)
    open_report(page, search, tmp_path / "search")
    for number in (0, int(page.evaluate("slider.max"))):
        page.evaluate(f"slider.value = {number}; slider.dispatchEvent(new Event('input'))")
    absent = page.evaluate(
        "[...document.querySelectorAll('#cell path.absent')]"
        ".map((e) => [getComputedStyle(e).pointerEvents, e.textContent])"
    )
    assert absent
    assert {(*each,) for each in absent} == {("none", "")}


@pytest.mark.parametrize("width", [390, 800, 1000, 1200])
def test_letters_of_drawings_can_be_read(page, tmp_path, width):
    search = dense(num_candidates=2, keep_fraction=0.9)
    run(search)
    open_report(page, search, tmp_path / "search", width)
    page.evaluate("slider.value = 0; slider.dispatchEvent(new Event('input'))")
    sizes = page.evaluate(
        "[...document.querySelectorAll('svg text')].map((e) => "
        "parseFloat(getComputedStyle(e).fontSize) * e.ownerSVGElement.getScreenCTM().a)"
    )
    assert 10 < min(sizes) <= max(sizes) < 17
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_search_by_latency_of_one_round_in_the_dark(page, tmp_path):
    search = dense(keep_fraction=1)
    run(search, lambda cell: dataclasses.replace(outcome(cell), latency_ms=0.25))
    page.emulate(prefers_color_scheme="dark", prefers_reduced_motion="reduce")
    open_report(page, search, tmp_path / "search")
    assert shown(page)[:2] == (["round-0"], "round 0 of 0")
    assert page.evaluate("[play.disabled, slider.disabled]") == [True, True]
    assert "0.25" in page.text(".tiles")
    assert page.evaluate("document.querySelectorAll('.chart').length") == 5
    page.point_at(*middle(page, dot_of("chosen", 0)))
    page.wait_for("#tip", "latency 0.25 ms")
    styles = page.evaluate(
        "['body', '#tip', '#cell text', '.chart text', '.chart use'].map((each) => {"
        "const style = getComputedStyle(document.querySelector(each));"
        "return each[0] === '#' && each !== '#cell text' || each === 'body'"
        " ? [style.backgroundColor, style.color] : [null, style.fill] })"
    )
    paper = styles[0][0]
    for ground, ink in styles:
        colours = (re.findall(r"\d+", each) for each in (ground or paper, ink))
        ground, ink = ("#" + "".join(f"{int(v):02x}" for v in each[:3]) for each in colours)
        assert contrast("#000000", ground) < 2
        assert contrast(ink, ground) >= 4.5
    moves = "getComputedStyle(document.querySelector('#cell g g')).transitionDuration"
    assert page.evaluate(moves) == "0s"
    page.emulate(prefers_color_scheme="light", prefers_reduced_motion="no-preference")
    assert page.evaluate(moves) != "0s"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


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
    dot = dot_of("line", 2)
    x, y = middle(page, dot)
    page.point_at(x + 3, y)
    page.wait_for("#tip", "round 2: ")
    text = page.text("#tip")
    for value in (f"score {record['score']:.4f}", f"accuracy {record['objective']:.4f}"):
        assert value in text
    assert f"{record['macs']:,} MACs" in text
    assert " ".join(edges_of(record)) in text
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


@pytest.mark.parametrize("width", [390, 1200])
def test_hostile_names_are_only_text_and_the_page_is_no_wider_than_the_screen(
    page, tmp_path, width
):
    search = papers(Cell.dense(("input", "a" * 60, "conv1x1", "conv1x1", "a" * 60)))
    run(search, lambda cell: some_fail(cell) if len(cell.edges) < 10 else outcome(cell))
    assert HOSTILE in str(search.trajectory())
    folder = tmp_path / HOSTILE.replace("/", "_")
    open_report(page, search, folder, width)
    (folder / "settings.json").write_text(json.dumps({HOSTILE: HOSTILE, "long": "x" * 300}))
    run_record.note_command(folder, ["autoshrink", "search", HOSTILE, "y" * 300])
    open_report(page, search, folder, width)
    assert page.evaluate("typeof stolen") == "undefined"
    assert page.text("h1") == folder.name
    assert page.text("pre").startswith("autoshrink search '</script>")
    assert HOSTILE in page.evaluate("rounds.textContent")
    slider = "document.getElementById('slider')"
    for number in range(int(page.evaluate(f"{slider}.max")) + 1):
        page.evaluate(f"{slider}.value = {number}; {slider}.dispatchEvent(new Event('input'))")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
