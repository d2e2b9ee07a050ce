"""The reference's log-probs: kept by content, shared by processes, refused for another model."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from smolforge.data.batch import PackedBatch
from smolforge.data.pipeline import open_stream
from smolforge.data.processor import load_renderer
from smolforge.errors import CheckpointError
from smolforge.loading import load_tree
from smolforge.model.adapters import add_adapters
from smolforge.model.tree import TreeModel
from smolforge.objectives import objective_of
from smolforge.objectives.reference import ReferenceStore, frozen, kept, split, store_file, without_adapters
from smolforge.recipe import DataSection, LoraSection, PreferenceSection


def store(folder: Path, *, weights: str = "w", dtype: str = "float32") -> ReferenceStore:
    return ReferenceStore(folder / "sub" / "store.sqlite", weights=weights, dtype=dtype)


def values(number: int, size: int = 5) -> np.ndarray:
    return np.random.default_rng(number).standard_normal(size).astype(np.float32)


@pytest.fixture(scope="module")
def model(tiny: Path) -> TreeModel:
    return load_tree(tiny, load_renderer(tiny), dtype="float32", device=torch.device("cpu"))


@pytest.fixture(scope="module")
def rows(tiny: Path) -> list[PackedBatch]:
    """Six pairs with their spoilt pictures in several rows: three responses an example."""
    shaping = objective_of(PreferenceSection(kind="dpo", picture={"kind": "crop"})).shaping
    renderer = replace(load_renderer(tiny), row_tokens=512)
    stream = open_stream([DataSection(source="scene_pairs", split="train[:6]")], renderer, shaping=shaping, seed=0)
    step = stream.step(range(6))
    assert len(step.rows) > 1
    return list(step.rows)


# --- the store --------------------------------------------------------------------------------------------------------


def test_what_is_put_is_got_bit_for_bit(tmp_path):
    given = {"a": values(0), "b": values(1, 1), "c": values(2, 0), "d": np.array([-0.0, np.inf, 1e-40], np.float32)}
    store(tmp_path).put(given)
    again = store(tmp_path)  # another process's view
    assert len(again) == 4
    got = again.get(["a", "b", "c", "d", "e"])
    assert got.keys() == given.keys()
    assert all(got[key].tobytes() == given[key].tobytes() for key in given)
    assert again.missing(["a", "e", "d", "f"]) == {"e", "f"}


def test_what_is_kept_stays(tmp_path):
    one = store(tmp_path)
    one.put({"a": values(0)})
    one.put({"a": values(1), "b": values(2)})
    assert np.array_equal(one.get(["a"])["a"], values(0))
    assert np.array_equal(one.get(["b"])["b"], values(2))


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"weights": "v"}, r"holds log-probs of another model \(other weights\)"),
        ({"dtype": "bfloat16"}, r"holds log-probs of another model \(other dtype\)"),
        ({"weights": "v", "dtype": "bfloat16"}, r"\(other weights and dtype\)"),
    ],
)
def test_another_models_file_is_refused(tmp_path, other, words):
    store(tmp_path).put({"a": values(0)})
    with pytest.raises(CheckpointError, match=words) as caught:
        store(tmp_path, **other)
    assert "objective.reference.store" in str(caught.value)
    assert "store.sqlite" in str(caught.value)
    assert len(store(tmp_path)) == 1


@pytest.mark.parametrize("damage", ["text", "zeros", "cut"])
def test_a_damaged_file_is_one_line(tmp_path, damage):
    one = store(tmp_path)
    one.put({f"{n:032}": values(n, 500) for n in range(200)})
    one.kept._db.close()
    content = one.kept.file.read_bytes()
    one.kept.file.write_bytes(
        {"text": b"no database, but long enough to have a header " * 99, "zeros": bytes(len(content)), "cut": content[:5000]}[
            damage
        ]
    )
    with pytest.raises(CheckpointError, match=r"store\.sqlite") as caught:
        store(tmp_path).get([f"{n:032}" for n in range(200)])
    assert "\n" not in str(caught.value)


def test_a_damaged_page_is_one_line_when_it_is_read(tmp_path):
    """The header is whole, so it opens; the damage shows at the first look-up."""
    one = store(tmp_path)
    one.put({f"{n:032}": values(n, 500) for n in range(200)})
    one.kept._db.close()
    with one.kept.file.open("r+b") as file:
        file.seek(3 * 4096)
        file.write(b"\xff" * (one.kept.file.stat().st_size - 3 * 4096))
    with pytest.raises(CheckpointError, match=r"store\.sqlite"):
        store(tmp_path).get([f"{n:032}" for n in range(200)])


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "sub").write_text("a file")
    with pytest.raises(CheckpointError, match="not a usable store"):
        store(tmp_path)


def test_the_file_belongs_to_weights_and_dtype(tmp_path):
    ways = [(weights, dtype) for weights in "ab" for dtype in ("float32", "bfloat16")]
    assert len({store_file(tmp_path, *way) for way in ways}) == 4


def _fill(folder: Path, seed: int) -> None:
    one = store(folder)
    rng = np.random.default_rng(seed)
    for _ in range(60):
        wanted = [str(n) for n in rng.integers(100, size=8)]
        missing = one.missing(wanted)
        one.put({key: values(int(key), int(key)) for key in missing})
        assert all(np.array_equal(value, values(int(key), int(key))) for key, value in one.get(wanted).items())
        assert not one.missing(wanted)


def test_processes_share_a_file(tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["smolforge.training.loop", __name__])
    processes = [context.Process(target=_fill, args=(tmp_path, seed)) for seed in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(600)
        assert process.exitcode == 0
    one = store(tmp_path)
    assert 90 < len(one) <= 100
    found = one.get([str(n) for n in range(100)])
    assert all(np.array_equal(value, values(int(key), int(key))) for key, value in found.items())


# --- rows -------------------------------------------------------------------------------------------------------------


def test_tokens_go_to_their_examples(rows):
    """Each token's log-prob is made the number of its example's name; every part holds that number alone, in the row's order."""
    for row in rows:
        owners = [row.responses[r].example for r in row.response_ids.tolist()]
        places = torch.arange(len(row.targets), dtype=torch.float32)
        parts = split(row, places)
        assert list(parts) == list(row.keys)
        assert sum(map(len, parts.values())) == len(row.targets)
        for number, key in enumerate(row.keys):
            assert parts[key].tolist() == [place for place, owner in zip(places.tolist(), owners) if owner == number]
    assert max(len(row.keys) for row in rows) > 1


def test_a_row_without_scored_tokens_splits_into_nothing(rows):
    empty = replace(
        rows[0], responses=(), targets=rows[0].targets[:0], response_ids=rows[0].response_ids[:0], keys=()
    )  # fmt: skip
    assert split(empty, torch.zeros(0)) == {}


def test_only_what_is_missing_is_computed(tmp_path, rows, model):
    asked: list[PackedBatch] = []

    def otherwise(row: PackedBatch) -> torch.Tensor:
        asked.append(row)
        return plain(row)

    plain, one = frozen(model), store(tmp_path)
    reference = kept(one, otherwise)
    first = [reference(row) for row in rows]
    assert asked == rows
    assert len(one) == 6
    again = [reference(row) for row in rows]
    assert asked == rows, "nothing was computed twice"
    for row, a, b in zip(rows, first, again):
        assert torch.equal(a, b)
        assert torch.equal(a, plain(row))
        assert a.dtype == torch.float32
    one.kept._db.execute("delete from kept where key = ?", (rows[-1].keys[0],))
    one.kept._db.commit()
    for row in rows:
        reference(row)
    assert asked == [*rows, rows[-1]]
    assert len(one) == 6


def test_kept_log_probs_do_not_depend_on_the_row(tmp_path, tiny, rows, model):
    """Examples kept from one packing serve another. Tolerance: order of additions in attention; measured 5e-6."""
    one = store(tmp_path)
    plain = frozen(model)
    for row in rows:
        kept(one, plain)(row)
    shaping = objective_of(PreferenceSection(kind="dpo", picture={"kind": "crop"})).shaping
    stream = open_stream(
        [DataSection(source="scene_pairs", split="train[:6]")],
        replace(load_renderer(tiny), row_tokens=2048),
        shaping=shaping,
        seed=0,
    )
    (row,) = stream.step([5, 3, 1, 0, 2, 4]).rows

    def never(row: PackedBatch) -> torch.Tensor:
        raise AssertionError("everything is kept")

    torch.testing.assert_close(kept(one, never)(row), plain(row), rtol=0, atol=1e-4)


def test_the_reference_is_no_part_of_a_graph(tiny, rows):
    model = load_tree(tiny, load_renderer(tiny), dtype="float32", device=torch.device("cpu"))
    base = frozen(model)(rows[0])
    assert not base.requires_grad
    model.attach(add_adapters(model.model, LoraSection(), base=tiny))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    trains = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    off = without_adapters(model)(rows[0])
    assert not off.requires_grad
    assert torch.equal(off, base)
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == trains
    assert not torch.allclose(model(rows[0]), base)


def test_without_adapters_on_the_connector(tiny, rows):
    """The row's features are those of the trainable model's frozen part, the tower; the base model's connector still runs."""
    model = load_tree(tiny, load_renderer(tiny), dtype="float32", device=torch.device("cpu"))
    base = frozen(model)(rows[0])
    model.attach(add_adapters(model.model, LoraSection(on=("text", "connector")), base=tiny))
    assert model.boundary == "vision"
    assert torch.equal(without_adapters(model)(model.see(rows[0])), base)
