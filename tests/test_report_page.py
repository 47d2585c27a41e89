"""The report of a search as an HTML page: what is in it. `test_report_browser.py` looks at it."""

import dataclasses
import html
import html.parser
import itertools
import json
import re
import shlex
from pathlib import Path

import pytest
from computed_searches import (
    HOSTILE,
    OPS,
    accuracy,
    at_budget,
    bayesian,
    outcome,
    paper,
    run,
    save,
    some_fail,
)

import keras_autoshrink as kas
from keras_autoshrink.cell import Cell
from keras_autoshrink.networks import architecture
from keras_autoshrink.networks.operations import colours
from keras_autoshrink.report import plots
from keras_autoshrink.report.charts import Point, Series, front, limits
from keras_autoshrink.report.progress import SearchProgress
from keras_autoshrink.report.quantities import of_search
from keras_autoshrink.score import MEASURED_COST, RECORDED_COSTS
from keras_autoshrink.search.records import Outcome

WEB = Path(kas.__file__).parent / "report" / "web"


class Page(html.parser.HTMLParser):
    """A page: its text by the element with an id that it is in, all attributes, and its data."""

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.texts, self.attributes, self._open = {}, [], []
        self.feed(self.source)
        self.data = json.loads(self.texts["data"])
        figures = re.findall(r"<figcaption>([^<]*)</figcaption>(.*?)</figure>", self.source, re.S)
        self.charts = dict(figures)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.attributes.append((tag, attributes))
        self._open.append((tag, attributes.get("id", "")))

    def handle_startendtag(self, tag, attributes):
        self.attributes.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        for name in {name for _, name in self._open}:
            self.texts[name] = self.texts.get(name, "") + data + " "

    def points(self, chart, kind):
        """The texts of the points of a kind in a chart, in the order in which they are drawn."""
        found = re.search(rf'<g data-kind="{kind}".*?</g>\s*</g>', self.charts[chart], re.S)
        numbers = re.findall(r'data-point="(\d+)"', found[0]) if found else []
        return [self.data["points"][int(n)][1] for n in numbers]


def report(search, folder, **noted):
    return Page(kas.write_report(save(search, folder, **noted)))


@pytest.fixture(scope="module", params=[bayesian, paper], ids=["bayesian", "paper"])
def finished(request, tmp_path_factory):
    search = run(request.param(), some_fail)
    folder = tmp_path_factory.mktemp("search")
    path = kas.write_report(save(search, folder))
    assert path == folder / "report.html"
    return search.trajectory(), Page(path)


def test_all_rounds_and_candidates_are_in_it(finished):
    records, page = finished
    assert len(page.source) < 1_000_000
    assert page.data["numbers"] == [record["round"] for record in records]
    for record in records:
        text = page.texts[f"round-{record['round']}"]
        for candidate in record["candidates"]:
            for value in (candidate["error"], candidate.get("over_limit")):
                assert value is None or value in text
            if candidate["score"] is not None:
                assert f"{candidate['score']:.4f}" in text


def test_the_drawing_has_all_edges_that_a_round_has_kept_removed_and_added(finished):
    records, page = finished
    cells = [set(Cell.from_json(record["cell"]).live_edges) for record in records]
    for place, (here, record) in enumerate(zip(cells, records, strict=True)):
        before = cells[max(0, place - 1)]
        kinds = {(*e["ends"],): e["kind"] for e in page.data["rounds"][place]["edges"]}
        assert {e for e, kind in kinds.items() if kind == "kept"} == before & here
        assert {e for e, kind in kinds.items() if kind == "added"} == here - before
        assert {e for e, kind in kinds.items() if kind in ("removed", "dead")} == before - here
        # Those whose nodes were cut off are drawn otherwise.
        removed = {e for e, kind in kinds.items() if kind == "removed"}
        assert removed == {e for e in before - here if any(e[0] in pair for pair in (*here, (0,)))}
        if record["removed_edge"]:
            assert removed == {(*record["removed_edge"],)}
    assert page.data["colours"] == colours(OPS)


def test_nothing_in_it_comes_from_elsewhere(finished):
    records, page = finished
    assert HOSTILE in str(records)
    for tag, attributes in page.attributes:
        for name in ("src", "href", "action", "style", *(n for n in attributes if n[:2] == "on")):
            value = attributes.get(name) or "#"
            assert value.startswith("#") or (tag, value) == ("link", "data:,"), (tag, attributes)
    assert set(re.findall(r"https?://[\w./]+", page.source)) == {"http://www.w3.org/2000/svg"}
    policy = next(a["content"] for t, a in page.attributes if t == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert sum(tag in ("script", "img") for tag, _ in page.attributes) == 2  # the page's own


def test_the_name_of_a_metric_is_only_text(tmp_path):
    page = report(run(paper(keep_fraction=0.95)), tmp_path, metric=HOSTILE)
    assert sum(tag in ("script", "img") for tag, _ in page.attributes) == 2  # the page's own
    assert f"{HOSTILE} 0." in page.data["points"][0][1]
    assert f"{HOSTILE} over the rounds" in map(html.unescape, page.charts)


def test_each_chart_says_what_its_colours_mean(finished):
    _, page = finished
    legends = {name: re.findall(r"</i>(.*?)</li>", each) for name, each in page.charts.items()}
    others = "other trained candidates"
    assert legends["Accuracy over the rounds"] == ["adopted", others, "chosen"]
    assert legends["Accuracy against MACs"] == ["the result", "on the Pareto front", others]


def coarse(cell):
    """As `some_fail`, with many that are equal in objective and MACs."""
    found = some_fail(cell)
    if found.score is None:
        return found
    costs = {"macs": found.costs["macs"] // 4}
    return dataclasses.replace(found, objective=round(found.objective, 1), costs=costs)


def check_front(page, records, metric, sign):
    """Checks which points the page draws as the Pareto front; less is better where `sign` is 1."""
    values = [
        (candidate["macs"], sign * candidate["objective"])
        for record in records
        for candidate in record["candidates"]
        if candidate["score"] is not None and not candidate["reused"]
    ]
    # On it is all that nothing beats, each of those that are equal, too.
    best = [
        (macs, value)
        for macs, value in values
        if not any(m <= macs and v <= value and (m, v) != (macs, value) for m, v in values)
    ]
    texts = page.points(f"{metric.capitalize()} against MACs", "front")
    points = [re.search(rf"{metric} ([\d.]+)\n([\d,]+) MACs", text).groups() for text in texts]
    assert points == [(f"{sign * value:.4f}", f"{macs:,}") for macs, value in sorted(best)]
    assert page.texts["rounds"].count("Pareto front") == len(best)
    assert ("less is better" in page.source) == (sign > 0)


def test_more_of_a_metric_is_better(finished):
    records, page = finished
    check_front(page, records, "accuracy", -1)


def test_less_of_a_metric_is_better_where_the_search_says_so(tmp_path):
    search = run(paper(num_candidates=3), coarse)
    page = report(search, tmp_path, metric="val_perplexity", direction="min")
    check_front(page, search.trajectory(), "perplexity", 1)


def test_a_front_has_all_that_are_equal():
    quantities = of_search([], "accuracy", None)
    pairs = [(2, 0.5), (1, 0.5), (1, 0.5), (1, 0.4), (2, 0.6), (2, 0.6), (3, 0.6), (9, None)]
    found = [{"macs": macs, "objective": objective} for macs, objective in pairs]
    assert [found.index(each) for each in front(found, quantities)] == [1, 1, 4, 4]


def test_an_objective_has_a_name_and_keeps_its_capitals(tmp_path):
    save(run(paper(num_candidates=2, keep_fraction=0.9)), tmp_path)
    for empty in ("", " "):
        with pytest.raises(ValueError, match=r"objective='.?': give the name of the metric"):
            kas.write_report(tmp_path, objective=empty)
    assert not (tmp_path / "report.html").exists()
    page = Page(kas.write_report(tmp_path, tmp_path / "other.html", objective="val_AUC"))
    assert {"Val_AUC over the rounds", "Val_AUC against MACs"} < page.charts.keys()


def test_a_network_that_diverged_does_not_flatten_the_others(tmp_path):
    search = paper(num_candidates=4)

    def one_diverges(cell):
        found = outcome(cell)
        perplexity = 50_000.0 if len(search.outcomes) == 5 else 150 + 20 * found.objective
        return dataclasses.replace(found, score=-perplexity / 4, objective=perplexity)

    page = report(run(search, one_diverges), tmp_path, metric="val_perplexity", direction="min")
    note = "1 far beyond this range, and not drawn; the tables have all."
    # Not of the MACs, and of the front only if it was on it.
    noted = {title for title, content in page.charts.items() if note in content}
    assert noted >= {"Score over the rounds", "Perplexity over the rounds"}
    assert "MACs over the rounds" not in noted
    assert "50000" not in page.charts["Perplexity over the rounds"]
    assert "50000.0000" in page.source  # in the table of its round
    drawn = re.findall(r'<use x="[\d.]+" y="([\d.]+)"[^>]*data-point', page.charts[min(noted)])
    ys = [float(y) for y in drawn]
    assert max(ys) - min(ys) > 80  # of 173


def test_chosen_is_always_drawn():
    points = [Point(i, 1 + i / 100, i) for i in range(20)]
    others, chosen = Series("others", points), Series("chosen", [Point(3, 9.0, 20)])
    assert limits([others, chosen]) is None
    far = Series("others", [*points, Point(4, 99.0, 21)])
    assert limits([far, chosen]) == (1, 9.0)
    assert limits([Series("others", points[:5])]) is None


def test_every_cost_that_is_recorded_is_shown(tmp_path, capsys):
    """Of a new entry of `score.COSTS`, too, which this test finds by itself."""
    costs = {cost.name: 1_000 + place for place, cost in enumerate(RECORDED_COSTS)}
    search = paper(num_candidates=2, keep_fraction=0.95)
    progress = SearchProgress(1)
    run(search, lambda cell: outcome(cell, **costs))
    progress.end(search)  # of all rounds, as none has been said before
    lines = capsys.readouterr().out
    page = report(search, tmp_path)
    events = b"".join(p.read_bytes() for p in kas.write_tensorboard(tmp_path).glob("*autoshrink"))
    table = [str(column.header) for column in plots.trajectory_table(search.trajectory()).columns]
    picture = [axes.get_ylabel() for axes in plots.plot_trajectory(search).axes]
    for cost in RECORDED_COSTS:
        heading = f"{cost.label}, {cost.unit}" if cost.unit else cost.label
        assert f"<dt>{heading}</dt><dd>{costs[cost.name]:{cost.form}}</dd>" in page.source
        assert f"{cost.label[0].upper()}{cost.label[1:]} over the rounds" in page.charts
        assert f"{costs[cost.name]:{cost.form}}" in page.texts["round-0"]
        assert heading in picture
        assert (cost.unit or cost.label) in table
        assert f"search/{cost.name}".encode() in events
        assert f"{costs[cost.name]:{cost.form}}" in lines


@pytest.mark.parametrize(
    ("score", "deciding"),
    [
        (["AccuracyScore", {"weight": 0.1}], "macs"),
        (["Mine", {"cost": "params"}], "params"),
        (["Mine", {"cost": "latency"}], "latency_ms"),
        (["Mine", {"cost": ["size", 2]}], MEASURED_COST.name),  # a callable's description
        (["function", 2], "macs"),
        (None, "macs"),
    ],
)
def test_the_cost_that_a_score_asks_for_decides(score, deciding):
    records = [{"candidates": [], "macs": 1, "params": 2, "latency_ms": 3, deciding: 4}]
    quantities = of_search(records, "accuracy", score)
    assert quantities.deciding.name == deciding
    assert quantities.deciding in quantities.costs


def test_the_front_is_against_the_cost_that_decides(tmp_path):
    score = ["AccuracyScore", {"weight": 0.1, "cost": "latency"}]
    measured = {"latency_ms": 0.25, "spread": 0.02, "measured_by": "LiteRT 2.0, 1 thread"}
    search = run(paper(keep_fraction=0.95), lambda cell: outcome(cell, latency_ms=0.25))
    page = report(search, tmp_path, tuner0={"score": score}, costs={"a": measured})
    assert [n for n in page.charts if " against " in n] == ["Accuracy against latency"]
    assert page.points("Accuracy against latency", "chosen")
    assert "LiteRT 2.0, 1 thread; blocks of runs of a file differ by 2%" in page.source


def test_a_round_that_adopted_nothing_says_so(tmp_path):
    search = bayesian()
    run(search, lambda c: Outcome(None, error="boom") if search.round.number == 2 else outcome(c))
    page = report(search, tmp_path)
    assert "nothing adopted: the cell is still that of the round before" in page.texts["round-2"]
    complete = [number for number, text in page.data["points"] if "complete cell" in text]
    assert complete == [0]
    assert page.texts["rounds"].count("complete cell") == 2 + 1  # and its caption


@pytest.mark.parametrize(("chain", "winner"), [(0.9, "reference"), (0.6, "found")])
def test_a_search_at_a_budget_is_compared_with_references(tmp_path, chain, winner):
    search = run(at_budget(), accuracy(chain))
    page = report(search, tmp_path, settings={"proxy": [4_000, 1_000]})
    said = " ".join(page.texts[""].split())
    words = {
        "reference": "The reference chain-stride2 is the result: the best network found is ",
        "found": "The network found beats the best reference (chain-stride2) by ",
    }
    assert words[winner] in said
    assert "judged by 1,000 validation images." in said
    caption = "The final: the best networks found, and the best references, trained for 8 epochs"
    table = page.source.partition(f"<span>{caption}")[2].partition("</table>")[0]
    rows = re.findall(r"<tr.*?</tr>", table)[1:]
    assert len(rows) == len(search.final())
    for row, record in zip(rows, search.final(), strict=True):
        name = record["reference"] or "found: "
        scores = ", ".join(f"{score:.4f}" for score in record["scores"])
        for part in (f">{name}", ">2<", f">{record['mean']:.4f} ± 0.", f">{scores}<", ">9,000<"):
            assert part in row
    assert ["chosen" in row for row in rows] == [True] + [False] * (len(rows) - 1)
    for record, drawn in zip(search.trajectory(), page.data["rounds"], strict=True):
        assert ("reference" in record) == (not drawn["nodes"])
        removed = {(*e["ends"],) for e in drawn["edges"] if e["kind"] in ("removed", "dead")}
        assert removed == {(*edge,) for edge in record["removed_edges"]}
    assert "against the complete cell" in page.texts["round-1"]
    points = [text.splitlines() for _, text in page.data["points"]]
    for heading, *others in points:
        assert ("reference" in heading) == ("edges: " not in others[-1])
    assert "tuner/" not in page.texts["rounds"]
    assert page.texts["search"].strip() == "The search"
    assert page.source.index('id="result"') < page.source.index('id="search"')


def test_networks_at_a_budget_are_drawn_against_what_they_differ_in(tmp_path):
    search = run(at_budget(), accuracy(0.65))
    page = report(search, tmp_path)
    assert not any("against MACs" in title or title.startswith("Score") for title in page.charts)
    assert not any("MACs" in title for title in page.charts)  # all cost the same
    assert "reference resnet8" in "".join(page.points("Accuracy over the rounds", "references"))
    chart = "Accuracy against parameters"
    drawn = {kind: page.points(chart, kind) for kind in ("others", "front", "references", "brief")}
    # Those of the final, a point for each however often it was trained, and what was trained less.
    for record in search.final():
        mean = f"accuracy {record['mean']:.4f} ± 0."
        kinds = [kind for kind, texts in drawn.items() if any(mean in text for text in texts)]
        assert ("references" in kinds) == (record["reference"] is not None)
        assert len({*kinds} - {"references"}) == (record["reference"] is None or "front" in kinds)
    (result,) = page.points(chart, "chosen")
    assert f"accuracy {search.final()[0]['mean']:.4f} ± 0." in result
    assert "8 epochs, mean of 2" in result
    assert result in drawn["front"]
    assert all("8 epochs, mean of 2" in text for text in drawn["front"] + drawn["references"])
    assert all("4 epochs" in text for text in drawn["brief"])
    assert len({*drawn["brief"]}) == len(drawn["brief"]) > 5
    assert len(page.points(chart, "brief-references")) == 2


TUNER = {"hypermodel": {"config": {"target_macs": 9_000}}}


def network_of(cell):
    """The arguments of a small network, as `architecture.json` has them."""
    stages = {"stage_strides": [1, 2], "stage_repeats": [1, 2], "stage_filters": [4, 8]}
    shapes = {"input_shape": [9, 8, 1], "classes": 3, "stem_stride": 2, "stem_filters": 4}
    others = {"residual": False, "combine": "add", "head_filters": None, "pooled_stages": 2}
    arguments = {**shapes, **stages, **others, "cell": cell.prune().to_json()}
    return {"format": architecture.FORMAT, "reference": None, "arguments": arguments}


def test_the_network_that_was_found_is_drawn_with_the_numbers_of_the_rounds(tmp_path):
    def best_without_node_1(point):
        found, more = accuracy(0.6)(point), 0.3 * (1 not in point.reachable)
        return dataclasses.replace(
            found, score=found.score + more, objective=found.objective + more
        )

    search = run(at_budget(), best_without_node_1)
    cell = Cell.from_json(search.best()["cell"])
    assert 1 not in cell.reachable
    found = network_of(cell)
    page = report(search, tmp_path, tuner0=TUNER, architecture=found)
    section = page.source.partition('id="network"')[2].partition("</section>")[0]
    assert re.findall(r"node (\d+)</text>", section) == [str(n) for n in cell.reachable]
    for shape in ("9 x 8 x 1", "5 x 4 x 4", "3 x 2 x 8", ">12<"):
        assert shape in section
    assert "2 cells" in section
    del found["arguments"]["stage_strides"]
    with pytest.raises(ValueError, match=r"architecture\.json: .*stage_strides"):
        report(search, tmp_path, tuner0=TUNER, architecture=found)


def test_a_reference_that_is_the_result_is_told_by_its_arguments(tmp_path):
    arguments = {"input_shape": [8, 8, 1], "classes": 3, "filters": [4, HOSTILE]}
    chain = {"format": architecture.FORMAT, "reference": HOSTILE, "arguments": arguments}
    search = run(at_budget(), accuracy(0.9))
    page = report(search, tmp_path, tuner0=TUNER, architecture=chain)
    assert page.texts["network"].strip() == f"The network: the reference {HOSTILE}"
    assert f"filters {json.dumps([4, HOSTILE])}" in " ".join(page.texts[""].split())
    assert sum(tag in ("script", "img") for tag, _ in page.attributes) == 2  # the page's own


def test_an_open_round_says_what_is_known(tmp_path):
    # Nodes 1 to 4 are alike: all cells that lack one of these edges are one network.
    search = paper(Cell(("input", *["conv1x1"] * 4), [(0, node) for node in range(1, 5)]))
    page = report(search, tmp_path)
    assert "complete cell; 4 edges." in page.texts["round-0"]
    assert "No network has a score yet" in page.texts[""]
    search.tell(search.cell, Outcome(None, over_limit="4 MACs, at most 3", costs={"macs": 4}))
    page = report(search, tmp_path)
    assert "the cell is still that of the round before" in page.texts["round-1"]
    assert page.texts["round-1"].count("not trained yet") == 4
    twin = "not trained yet , the same network as one before it"
    assert page.texts["round-1"].count(twin) == 3


def test_a_search_under_way_shows_its_open_round(tmp_path):
    search = paper(num_candidates=3)
    over = Outcome(None, over_limit="29 MACs, at most 28", costs={"macs": 29})
    search.tell(search.cell, over)
    search.tell(search.pending()[0].cell, outcome(search.pending()[0].cell))
    search.tell(search.pending()[0].cell, Outcome(None, error="boom"))
    page = report(search, tmp_path)
    assert page.data["numbers"] == [0, 1]
    assert "This search is in round 1" in page.texts[""]
    assert "No round has adopted a network yet" in page.texts[""]
    assert page.texts["round-1"].count("not trained yet") == 1
    assert {"under way", "boom"} <= set(re.findall(r"under way|boom", page.texts["round-1"]))
    # The only score is of this round.
    assert len(page.points("Accuracy over the rounds", "others")) == 1
    assert not re.search(r'aria-labelledby="curves" hidden', page.source)


@pytest.mark.parametrize("rounds", [0, 1])
def test_a_search_that_failed_says_why(rounds, tmp_path):
    search = paper(num_candidates=2)
    if rounds:
        search.tell(search.cell, outcome(search.cell))
    run(search, lambda cell: Outcome(None, error="OutOfMemory: too large"))
    page = report(search, tmp_path)
    assert "This search failed" in page.texts[""]
    assert "OutOfMemory: too large" in page.texts[f"round-{rounds}"]
    assert page.data["numbers"] == [*range(rounds + 1)]


def test_a_search_without_costs_is_reported_without_them(tmp_path):
    search = run(paper(num_candidates=2, keep_fraction=0.9), lambda c: Outcome(len(c.edges)))
    page = report(search, tmp_path)
    assert [*page.charts] == ["Score over the rounds"]
    assert ">MACs<" not in page.source


def test_each_text_is_once_in_a_large_page(tmp_path):
    cell = Cell.dense(("input", *["sepconv3x3", "conv1x1"] * 5, "conv1x1"))
    search = paper(cell, num_candidates=20, keep_fraction=0.9)
    run(search, lambda each: outcome(each, params=1_000_000 + len(each.edges)))
    page, networks = report(search, tmp_path), len(search.outcomes)
    texts = [text for _, text in page.data["points"]]
    assert len({*texts}) == len(texts) <= 1.1 * networks
    assert page.source.count(texts[0].replace("\n", "\\n")) == 1
    assert len(page.source) < 100_000 + 1_400 * networks


def test_it_says_how_the_search_was_run(tmp_path):
    command = {"argv": ["autoshrink", "search", HOSTILE], "split_seed": 7, HOSTILE: HOSTILE}
    tuner = {"seed": 0, "versions": {"keras": "3.15"}, "training": {"epochs": 9}}
    tuner["hypermodel"] = {"cell": Cell.dense(OPS[:3]).to_json()}
    search = run(paper(num_candidates=2, keep_fraction=0.9, seed=5))
    page = report(search, tmp_path, tuner0=tuner, settings=command)
    said = " ".join(page.texts[""].split())
    assert f"Command autoshrink search {shlex.quote(HOSTILE)}" in said
    for each in ("seed 0", "split_seed 7", "keras 3.15", f"{HOSTILE} {HOSTILE}", "strategy paper"):
        assert each in said
    assert "training.epochs 9" in said
    assert "hypermodel.cell 3 edges over input, sepconv3x3, conv1x1" in said
    assert "metric val_accuracy" in said
    bare = report(search, tmp_path / "bare")
    assert "seed 5" in " ".join(bare.texts[""].split())
    assert "Command" not in bare.texts[""]


@pytest.mark.parametrize("name", ["oracle", "tuner0", "settings", "costs"])
def test_a_damaged_file_is_named(name, tmp_path):
    save(run(paper(keep_fraction=0.95)), tmp_path)
    (tmp_path / f"{name}.json").write_text('{"half')
    with pytest.raises(ValueError, match=rf"{name}\.json: damaged"):
        kas.write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


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
    css = (WEB / "report.css").read_text(encoding="utf-8")
    block = css[css.index(start) :]
    colours = dict(re.findall(r"--(\w+): (#\w+);", block[: block.index("}")]))
    for one, other in [
        *itertools.product(("ink", "faint"), ("paper", "panel", "rule")),
        *itertools.product(("accent", "warn", "chosen", "line", "references"), ["paper"]),
    ]:
        assert contrast(colours[one], colours[other]) >= 4.5, (one, other)
    for one, other in [
        ("others", "paper"),
        *itertools.product(("faint", "warn", "good", "accent"), ["panel"]),
    ]:
        assert contrast(colours[one], colours[other]) >= 3, (one, other)
    # What is said in letters keeps their colour.
    assert not re.search(r"(?<!absent )\{[^}]*opacity: 0\.\d", css)
