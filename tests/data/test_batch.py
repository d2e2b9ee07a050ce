"""The collator on trees made by hand: what each array must be, written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from smolforge.data.batch import PackedBatch, ResponseRef, collate
from smolforge.data.media import ImageSpec, Picture
from smolforge.data.render import Example, Node, PlacedImage

SPEC = ImageSpec(tile=2, longest_edge=4)


def node(parent: int, ids: list[int], weights: list[float] | float = 0.0) -> Node:
    full = np.broadcast_to(np.float32(weights), len(ids)).copy()
    return Node(parent=parent, ids=np.array(ids, np.int64), weights=full)


def tree(nodes: list[Node], responses: list[int], *, name: str = "1", images: tuple[PlacedImage, ...] = ()) -> Example:
    kinds = tuple((index, "target") for index in responses)
    return Example(id=name, source="hand", nodes=tuple(nodes), responses=kinds, images=images)


def placed(key: str, starts: tuple[int, ...], shade: int, *, node: int = 0, spec: ImageSpec = SPEC) -> PlacedImage:
    """A picture whose tiles are filled with `shade`, `shade + 1`, ..."""
    tiles = np.stack([np.full((3, 2, 2), shade + number, np.uint8) for number in range(len(starts))])
    picture = Picture(key=key, width=2, height=2, pixels=lambda: Image.new("RGB", (2, 2)))
    return PlacedImage(picture=picture, spec=spec, node=node, starts=starts, tiles=tiles)


def holds(batch: PackedBatch, **expected: object) -> None:
    for name, values in expected.items():
        assert getattr(batch, name).tolist() == values, name


def two_trees() -> list[Example]:
    first = tree([node(-1, [10, 11, 12]), node(0, [20, 21], 1.0), node(0, [30], 0.5)], [1, 2], name="a")
    second = tree([node(-1, [40, 41]), node(0, [50], 1.0)], [1], name="b")
    return [first, second]


def test_the_picture_in_the_docstring() -> None:
    """Two trees, the first with two branches, as `batch.py` draws them."""
    batch = collate(two_trees())
    holds(
        batch,
        input_ids=[10, 11, 12, 20, 21, 30, 40, 41, 50],
        node_ids=[0, 0, 0, 1, 1, 2, 3, 3, 4],
        position_ids=[0, 1, 2, 3, 4, 3, 0, 1, 2],
        predictors=[2, 3, 2, 7],
        targets=[20, 21, 30, 50],
        weights=[1.0, 1.0, 0.5, 1.0],
        response_ids=[0, 0, 1, 2],
        run_tiles=[],
        run_starts=[],
    )
    assert batch.ancestry.int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 0, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 1, 1],
    ]
    assert batch.trees == (6, 3)
    assert batch.num_tokens == 9
    assert batch.ids == ("hand[a]", "hand[b]")
    assert batch.responses == (
        ResponseRef(example=0, id="a", source="hand", number=0, kind="target"),
        ResponseRef(example=0, id="a", source="hand", number=1, kind="target"),
        ResponseRef(example=1, id="b", source="hand", number=0, kind="target"),
    )


def test_types() -> None:
    batch = collate(two_trees())
    integers = (
        "input_ids",
        "position_ids",
        "node_ids",
        "predictors",
        "targets",
        "response_ids",
        "run_tiles",
        "run_starts",
    )
    assert {getattr(batch, name).dtype for name in integers} == {torch.int64}
    assert (batch.weights.dtype, batch.ancestry.dtype, batch.tiles.dtype) == (torch.float32, torch.bool, torch.uint8)


def test_chain_of_turns() -> None:
    """Question, trained answer, question, two answers: positions go on down the chain, a branch starts where it left.

    index      0 1 2 3 4 5 6
    node       0 0 1 2 3 3 4
    position   0 1 2 3 4 5 4
    """
    nodes = [node(-1, [1, 2]), node(0, [3], 1.0), node(1, [4]), node(2, [5, 6], 1.0), node(2, [7], 1.0)]
    batch = collate([tree(nodes, [1, 3, 4])])
    holds(
        batch,
        position_ids=[0, 1, 2, 3, 4, 5, 4],
        predictors=[1, 3, 4, 3],
        targets=[3, 5, 6, 7],
        response_ids=[0, 1, 1, 2],
    )
    assert batch.ancestry.int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 0, 1],
    ]
    assert [ref.number for ref in batch.responses] == [0, 1, 2]


def test_response_without_a_parent() -> None:
    """Nothing predicts its first token, which is not scored; the tree before it is no context either."""
    batch = collate([*two_trees()[1:], tree([node(-1, [7, 8, 9], 1.0)], [0], name="c")])
    holds(
        batch,
        position_ids=[0, 1, 2, 0, 1, 2],
        predictors=[1, 3, 4],
        targets=[50, 8, 9],
        response_ids=[0, 1, 1],
    )


def test_tokens_without_weight_are_not_scored() -> None:
    batch = collate([tree([node(-1, [1]), node(0, [2, 3, 4], [1.0, 0.0, 2.0])], [1])])
    holds(batch, predictors=[0, 2], targets=[2, 4], weights=[1.0, 2.0], response_ids=[0, 0])


def test_numbers_and_kinds_of_responses() -> None:
    """`number` counts in the example's order of responses, the table stands in the order of nodes."""
    nodes = (node(-1, [1]), node(0, [2], 1.0), node(0, [3], 1.0))
    batch = collate(
        [Example(id="1", source="hand", nodes=nodes, responses=((2, "chosen"), (1, "rejected")))],
    )
    assert [(ref.number, ref.kind) for ref in batch.responses] == [(1, "rejected"), (0, "chosen")]
    holds(batch, targets=[2, 3], response_ids=[0, 1])


def test_equal_pictures_are_carried_once() -> None:
    """Two trees about one picture of two tiles, the second with another before it; a third has it cut otherwise.

    index    0 1 2 3 4 | 5 6 7 8 9 10 11 | 12 13 14
    token    1 I I I I | 2 I I I I I  I  | I  I  3        I placeholder, in runs of two
    tile       0 0 1 1 |   2 2 0 0 1  1  | 3  3
    """
    spec = ImageSpec(tile=2, longest_edge=2)
    first = tree([node(-1, [1, 9, 9, 9, 9])], [], images=(placed("cat", (1, 3), 100),))
    both = (placed("dog", (1,), 50), placed("cat", (3, 5), 100))
    second = tree([node(-1, [2, 9, 9, 9, 9, 9, 9])], [], images=both)
    third = tree([node(-1, [9, 9, 3])], [], images=(placed("cat", (0,), 7, spec=spec),))
    batch = collate([first, second, third])
    holds(batch, run_tiles=[0, 1, 2, 0, 1, 3], run_starts=[1, 3, 6, 8, 10, 12])
    assert batch.tiles.shape == (4, 3, 2, 2)
    assert batch.tiles[:, 0, 0, 0].tolist() == [100, 101, 50, 7]


def test_pictures_in_later_nodes() -> None:
    """`starts` count within the node."""
    nodes = [node(-1, [1, 2, 3]), node(0, [4], 1.0), node(1, [5, 9, 9])]
    batch = collate([tree(nodes, [1], images=(placed("cat", (1,), 0, node=2),))])
    holds(batch, run_starts=[5], run_tiles=[0])


def test_nothing_to_score() -> None:
    """A prompt alone, as for generation."""
    batch = collate([tree([node(-1, [1, 2])], [])])
    holds(batch, input_ids=[1, 2], predictors=[], targets=[], weights=[], response_ids=[])
    assert batch.responses == ()


def test_tiles_and_runs_must_agree() -> None:
    image = placed("cat", (0, 2), 0)
    short = PlacedImage(picture=image.picture, spec=SPEC, node=0, starts=(0, 2), tiles=image.tiles[:1])
    with pytest.raises(AssertionError, match="1 tiles for 2 runs"):
        collate([tree([node(-1, [9, 9, 9, 9])], [], images=(short,))])


def test_moving_keeps_everything() -> None:
    batch = collate(two_trees())
    moved = batch.to(torch.device("meta"))
    assert moved.input_ids.device.type == moved.ancestry.device.type == "meta"
    assert (moved.trees, moved.responses, moved.ids) == (batch.trees, batch.responses, batch.ids)
