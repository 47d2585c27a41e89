import itertools
import json

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_autoshrink.cell import SHRINKCNN_CELL, SHRINKRNN_CELL, Cell
from keras_autoshrink.networks.operations import CNN_OPERATIONS


@st.composite
def cells(draw, max_nodes=7, ops=CNN_OPERATIONS):
    """Any valid cell, unreachable nodes included."""
    nodes = draw(st.integers(2, max_nodes))
    pairs = list(itertools.combinations(range(nodes), 2))
    edges = draw(st.sets(st.sampled_from(pairs)))
    edges.add((0, draw(st.integers(1, nodes - 1))))
    names = draw(st.lists(st.sampled_from(ops), min_size=nodes - 1, max_size=nodes - 1))
    return Cell(("input", *names), tuple(edges))


@st.composite
def renumberings(draw):
    """A cell and the same one under another topological numbering of its nodes."""
    cell = draw(cells())
    order, waiting = [0], set(range(1, cell.num_nodes))
    while waiting:
        ready = sorted(n for n in waiting if not any(i in waiting for i, j in cell.edges if j == n))
        order.append(draw(st.sampled_from(ready)))
        waiting.remove(order[-1])
    number = {node: index for index, node in enumerate(order)}
    edges = tuple((number[i], number[j]) for i, j in cell.edges)
    return cell, Cell(tuple(cell.ops[node] for node in order), edges)


def all_cells(nodes, ops=CNN_OPERATIONS):
    """Every pruned cell of exactly this many nodes."""
    pairs = list(itertools.combinations(range(nodes), 2))
    for names in itertools.product(ops, repeat=nodes - 1):
        for chosen in itertools.product((False, True), repeat=len(pairs)):
            edges = tuple(pair for pair, taken in zip(pairs, chosen, strict=True) if taken)
            # Every node but the input has an edge into it: all can be reached from node 0.
            if {j for _, j in edges} == set(range(1, nodes)):
                yield Cell(("input", *names), edges)


def smallest_numbering(cell):
    """By brute force: the smallest description over all numberings of the nodes."""

    def described(order):
        number = {node: index for index, node in enumerate((0, *order))}
        edges = sorted((number[i], number[j]) for i, j in cell.edges)
        return tuple(cell.ops[node] for node in order), tuple(edges)

    return min(map(described, itertools.permutations(range(1, cell.num_nodes))))


@pytest.mark.parametrize("nodes", [3, 4, 5])
def test_key_separates_exactly_the_networks_that_differ(nodes):
    by_key, by_brute_force = {}, {}
    for cell in all_cells(nodes):
        key, description = cell.key, smallest_numbering(cell)
        assert by_key.setdefault(key, description) == description
        assert by_brute_force.setdefault(description, key) == key
    assert len(by_key) == {3: 11, 4: 116, 5: 2423}[nodes]


@given(renumberings())
def test_key_does_not_depend_on_the_numbering(pair):
    cell, renumbered = pair
    assert cell.key == renumbered.key == cell.prune().key


@given(cells(max_nodes=5), cells(max_nodes=5))
def test_equal_keys_mean_isomorphic_graphs(one, other):
    graphs = [cell.prune().to_networkx() for cell in (one, other)]
    same = nx.is_isomorphic(*graphs, node_match=lambda a, b: a["op"] == b["op"])
    assert (one.key == other.key) == same


def test_key_of_many_interchangeable_nodes_is_fast():
    # 11! numberings: a search that tried each of the alike nodes would not end.
    star = Cell(("input", *["conv1x1"] * 11), [(0, node) for node in range(1, 12)])
    assert star.key == "input" + ",conv1x1" * 11 + ":" + ",".join(f"0>{n}" for n in range(1, 12))


@given(cells())
def test_pruning_is_idempotent_and_leaves_all_nodes_reachable(cell):
    pruned = cell.prune()
    assert pruned.prune() == pruned
    assert pruned.reachable == tuple(range(pruned.num_nodes))
    assert len(pruned.edges) == len(cell.live_edges)
    assert [cell.ops[leaf] for leaf in cell.leaves] == [pruned.ops[leaf] for leaf in pruned.leaves]


@given(cells())
def test_reachable_and_leaves_are_those_of_networkx(cell):
    graph = cell.to_networkx()
    reachable = {0} | nx.descendants(graph, 0)
    assert set(cell.reachable) == reachable
    assert set(cell.leaves) == {node for node in reachable if graph.out_degree(node) == 0}


@given(cells())
def test_json_and_networkx_round_trips(cell):
    assert Cell.from_json(json.loads(json.dumps(cell.to_json()))) == cell
    assert Cell.from_networkx(cell.to_networkx()) == cell


@settings(max_examples=20)
@given(cells())
def test_from_networkx_numbers_named_nodes(cell):
    graph = nx.relabel_nodes(cell.to_networkx(), {node: f"n{9 - node}" for node in range(10)})
    assert Cell.from_networkx(graph).key == cell.key


def test_dense_has_all_edges_and_one_leaf():
    cell = Cell.dense(("input", *["conv1x1"] * 7))
    assert len(cell.edges) == 28
    assert cell.leaves == (7,)
    assert cell.predecessors(3) == (0, 1, 2)


def test_without_edge_keeps_the_numbers():
    cell = Cell.dense(("input", "conv1x1", "sepconv3x3"))
    smaller = cell.without_edge((0, 1))
    assert smaller.num_nodes == 3
    assert smaller.edges == ((0, 2), (1, 2))
    assert smaller.prune() == Cell(("input", "sepconv3x3"), ((0, 1),))
    with pytest.raises(ValueError, match=r"\(0, 1\): not an edge"):
        smaller.without_edge((0, 1))


def test_cell_is_frozen_and_hashable():
    cell = Cell(["input", "conv1x1"], [[0, 1]])
    assert len({cell, Cell(("input", "conv1x1"), ((0, 1),))}) == 1
    with pytest.raises(AttributeError):
        cell.ops = ("input",)


def test_a_cell_may_carry_ops_that_nobody_has_registered():
    cell = Cell(("input", "mine.op-2+x"), ((0, 1),))
    assert Cell.from_json(cell.to_json()) == cell
    assert cell.key == "input,mine.op-2+x:0>1"


CONV = ("input", "conv1x1", "conv1x1")


@pytest.mark.parametrize(
    ("ops", "edges", "culprit"),
    [
        (("input",), (), "at least one other node"),
        ("input", (), "sequence of op names"),
        (("conv1x1", "conv1x1"), ((0, 1),), "'conv1x1' of node 0"),
        (("input", "input"), ((0, 1),), "'input' of node 1"),
        (("input", "<b>"), ((0, 1),), "'<b>' of node 1"),
        (("input", 3), ((0, 1),), "3 of node 1"),
        (CONV, (), "at least one edge"),
        (CONV, ((1, 2),), "no edge leaves node 0"),
        (CONV, ((0, 1), (2, 1)), r"\(2, 1\): edges lead from a smaller"),
        (CONV, ((0, 1), (1, 3)), "node 3 is not one of 0..2"),
        (CONV, ((0, 1), (0, 1)), r"\(0, 1\): given twice"),
        (CONV, ((0, 1.5),), r"\(0, 1.5\): an edge is a pair"),
        (CONV, (7,), "7: an edge is a pair"),
    ],
)
def test_bad_cells_name_the_culprit(ops, edges, culprit):
    with pytest.raises(ValueError, match=culprit):
        Cell(ops, edges)


@pytest.mark.parametrize(
    ("content", "culprit"),
    [
        (json.dumps({**SHRINKCNN_CELL.to_json(), "format": "something"}).encode(), "not a cell"),
        (json.dumps({**SHRINKCNN_CELL.to_json(), "version": 2}).encode(), "version 2"),
        (json.dumps({**SHRINKCNN_CELL.to_json(), "ops": None}).encode(), "'ops'"),
        (json.dumps({**SHRINKCNN_CELL.to_json(), "edges": [[0, 9]]}).encode(), "node 9"),
        (b"[1, 2]", "not a cell"),
        (b"{", ""),
        (b"\xff\xfe\x00", ""),
    ],
)
def test_bad_files_name_file_and_culprit(tmp_path, content, culprit):
    path = tmp_path / "cell.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"cell\.json: .*{culprit}"):
        Cell.load(path)


def graph(edges, ops):
    made = nx.DiGraph(edges)
    nx.set_node_attributes(made, ops, "op")
    return made


@pytest.mark.parametrize(
    ("made", "culprit"),
    [
        (graph([(0, 1), (1, 2), (2, 1)], dict(enumerate(CONV))), r"cycle \[\(1, 2\), \(2, 1\)\]"),
        (graph([(0, 1), (1, 2)], {0: "input", 1: "conv1x1"}), "node 2: has no attribute"),
        (graph([(1, 0)], dict(enumerate(CONV[:2]))), r"\(1, 0\): leads into the input"),
        (graph([(0, 1)], {0: "conv1x1", 1: "conv1x1"}), "one node has the op 'input', not 0"),
        (nx.MultiDiGraph([(0, 1)]), "DiGraph"),
    ],
)
def test_bad_graphs_name_the_culprit(made, culprit):
    with pytest.raises(ValueError, match=culprit):
        Cell.from_networkx(made)


def test_the_published_cells():
    assert SHRINKCNN_CELL.ops[1:] == (*["sepconv3x3"] * 3, "conv1x1")
    edges = "0-1 0-2 0-3 0-4 1-3 2-4"
    assert " ".join(f"{i}-{j}" for i, j in SHRINKCNN_CELL.edges) == edges
    assert SHRINKCNN_CELL.leaves == (3, 4)
    assert SHRINKRNN_CELL.ops[1:] == ("identity", "sigmoid", "sigmoid", "tanh", "identity")
    edges = "0-1 0-2 0-3 0-4 0-5 1-3 1-4 1-5 2-4 2-5 3-4 3-5"
    assert " ".join(f"{i}-{j}" for i, j in SHRINKRNN_CELL.edges) == edges
    assert SHRINKRNN_CELL.leaves == (4, 5)
