"""The benchmark of model costs, on the smallest of its networks."""

import contextlib
import dataclasses
import io
import json
import re
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

NAME = "MobileNetV3Small"
MACS = 56_510_400
TIMINGS = {"float32 ms, 1 thr.", "int8 ms, 1 thr."}


@pytest.fixture(scope="module")
def script():
    """The script as a module; it imports what lies beside it, as a script does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")
        import model_costs

        yield model_costs
    del sys.modules["model_costs"], sys.modules["published"]


@dataclasses.dataclass
class Run:
    status: int
    printed: str
    record: dict
    markdown: str


@pytest.fixture(scope="module")
def run(script, tmp_path_factory):
    folder = tmp_path_factory.mktemp("costs")
    words = ["--models", NAME, "--passes", "1", "--runs", "2", "--threads", "1"]
    words += ["--json", str(folder / "costs.json"), "--markdown", str(folder / "costs.md")]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        status = script.main(words)
    record = json.loads((folder / "costs.json").read_text())
    return Run(status, printed.getvalue(), record, (folder / "costs.md").read_text())


def test_the_record_holds_what_was_measured(run, script):
    assert run.status == 0
    assert set(run.record) == {"setting", "search_space", "models"}
    setting = {"processor", "python", "ai-edge-litert", "keras", "tensorflow", "runs", "passes"}
    assert set(run.record["setting"]) == setting
    (model,) = run.record["models"]
    assert model["name"] == NAME
    assert model["macs"] == model["file_macs"] == MACS
    assert 0 < model["params_without_batchnorm"] < model["params"]
    # Four bytes and one for each parameter; besides, the graph, and no BatchNorm.
    assert 3.8 < model["num_bytes"]["float32"] / model["params"] < 4.5
    assert 1.0 < model["num_bytes"]["int8"] / model["params"] < 1.3
    assert set(model["passes_ms"]) == set(model["median_ms"]) == TIMINGS
    assert all([model["median_ms"][key]] == ms for key, ms in model["passes_ms"].items())
    assert min(model["median_ms"].values()) > 0
    assert model["published"] == dataclasses.asdict(script.PUBLISHED[NAME])
    assert model["macs_agree"] is True
    assert "include_preprocessing=False" in model["notes"][0]


def test_the_search_space_is_larger_than_what_it_found(run):
    facts = {(fact["network"], fact["count"]): fact for fact in run.record["search_space"]}
    networks = ("proxy", "ShrinkCNN-A")
    assert set(facts) == {
        (network, count) for network in networks for count in ("MACs", "parameters")
    }
    assert facts["ShrinkCNN-A", "MACs"]["published"] == 383_676_392
    for fact in facts.values():
        assert fact["published"] == pytest.approx(fact["complete"] * (1 - fact["saving"]))
        assert 0 < fact["saving"] < 1


def test_the_tables_can_be_read(run):
    tables, remarks = run.printed.split("processor: ")
    assert "…" not in tables
    assert max(map(len, tables.splitlines())) <= 80
    assert re.search(rf"{NAME} .* {MACS:,} +same +56 +\+0\.9%", tables)
    assert "not ours" in remarks
    assert "https://arxiv.org/abs/1905.02244" in remarks


def test_the_markdown_holds_the_same_tables(run):
    tables = re.findall(r"^\*\*(.+)\*\*\n\n((?:\|.*\|\n)+)", run.markdown, re.M)
    titles = ["Costs", "Latency: least and most of the passes", "Counts", "Search space"]
    assert [title for title, _ in tables] == titles
    for _, text in tables:
        rows = [line.strip("| ").split(" | ") for line in text.splitlines()]
        assert len({len(row) for row in rows}) == 1
        assert len(rows) > 2
    assert f"{NAME} | 68.1 | 2.55 | 57 |" in run.markdown


def recorded(script, run, **changes):
    """The costs of that run again."""
    fields = [field.name for field in dataclasses.fields(script.Costs)]
    return script.Costs(**{name: run.record["models"][0][name] for name in fields} | changes)


@pytest.mark.parametrize(("published", "status"), [(56_000_000, 0), (66_000_000, 1)])
def test_a_count_that_is_not_the_published_one_fails(
    script, run, monkeypatch, capsys, published, status
):
    theirs = dataclasses.replace(script.PUBLISHED[NAME], macs=published)
    monkeypatch.setitem(script.PUBLISHED, NAME, theirs)
    monkeypatch.setattr(script, "search_space", lambda: run.record["search_space"])
    monkeypatch.setattr(script, "convert", lambda name, folder: recorded(script, run))
    monkeypatch.setattr(script, "measure", lambda *arguments: None)
    assert script.main(["--models", NAME]) == status
    captured = capsys.readouterr()
    message = "MobileNetV3Small: 56,510,400 MACs, but 66,000,000 are published"
    assert (message in captured.err) == (status == 1)
    assert ("WRONG" in captured.out) == (status == 1)


@pytest.mark.parametrize(
    ("macs", "unit", "count", "agrees"),
    [
        (300_000_000, 1_000_000, 303_000_000, True),
        (300_000_000, 1_000_000, 303_000_001, False),
        (300_000_000, 1_000_000, 296_999_999, False),
        (390_000_000, 10_000_000, 385_000_000, True),
        (390_000_000, 10_000_000, 384_999_999, False),
    ],
)
def test_agreement_is_within_a_percent_or_the_rounding(script, macs, unit, count, agrees):
    theirs = dataclasses.replace(script.PUBLISHED[NAME], macs=macs, macs_unit=unit)
    assert theirs.agrees(count) is agrees


def test_the_figures_are_those_that_counts_are_tested_against(script):
    """`test_costs.py` counts these three."""
    macs = {"MobileNet": 569_000_000, "MobileNetV2": 300_000_000, "ResNet50": 3_860_000_000}
    assert {name: script.PUBLISHED[name].macs for name in macs} == macs


def test_a_network_without_an_int8_file_has_a_gap(script, run, monkeypatch, tmp_path):
    def refuse(model, path, quantization="float32", data=None):
        if quantization == "int8":
            raise ValueError("model: no")
        path.write_bytes(b"file")

    monkeypatch.setattr(script.tflite_export, "convert", refuse)
    monkeypatch.setattr(script.tflite_export, "count_macs", lambda path: MACS + 1)
    costs = script.convert(NAME, tmp_path)
    assert costs.num_bytes == {"float32": 4, "int8": None}
    assert costs.notes[1:] == [
        "no int8 file: model: no",
        "the converter rewrites it: +1 MACs in the file",
    ]
    other = recorded(script, run)
    summary, _, counts, _ = script.grids([costs, other], [])
    assert summary[2][0][5:] == ["-", "-", "-"]
    assert "-" not in summary[2][1]
    assert counts[2][0][4:] == ["56,510,401", "56", "+0.9%"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--models VGG16", "invalid choice: 'VGG16'"),
        ("--passes 0", "0 is below 1"),
        ("--threads 1 x", "invalid positive_integer value: 'x'"),
        ("--json nowhere/costs.json", "nowhere/costs.json: no such folder"),
    ],
)
def test_bad_arguments_are_refused_at_once(script, capsys, words, message):
    with pytest.raises(SystemExit) as stopped:
        script.main(words.split())
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
