"""Many devices before a run: shares, units, operations and bytes against the code that does it, and against numbers by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import page
import pytest

from smolforge.data.media import ImageSpec
from smolforge.data.pipeline import open_stream
from smolforge.data.processor import load_renderer
from smolforge.errors import RecipeError
from smolforge.estimating import configuration, device_for, estimate
from smolforge.estimating.assumed import ASSUMED
from smolforge.estimating.cluster import cluster_of
from smolforge.estimating.gpus import GPUS
from smolforge.estimating.layout import Row, encoded_bytes, layout_of, worst
from smolforge.estimating.rehearsal import rehearse
from smolforge.estimating.scaling import Feed, scale, scaled, shares
from smolforge.estimating.tables import scaling_lines, size
from smolforge.estimating.traffic import sharded, summed
from smolforge.estimating.units import Unit, tile_cost_of, units_of
from smolforge.estimating.work import work_of
from smolforge.objectives import objective_of
from smolforge.recipe import parse_recipe
from smolforge.records import Media, Message, Record, Video

A100 = GPUS["A100-40"]


def recipe_of(name, **settings):
    tree = {
        "model": {"name": str(name)}, "data": [{"source": "scenes", "split": "train[:64]"}],
        "batch": {"examples": 16, "row_tokens": 256}, "run": {"dir": "unused", "steps": 100},
    }  # fmt: skip
    return parse_recipe(tree, [f"{key}={json.dumps(value)}" for key, value in settings.items()])


# --- operations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"freeze.vision": True},
        {"run.gradient_checkpointing": True},
        {"adapters": {"method": "lora"}},
        {"freeze.decoder_layers": 2},
    ],
)
def test_work_of_a_row_is_what_a_rehearsal_counts(settings, tiny):
    """Exact: all of it is products of these sizes."""
    recipe = recipe_of(tiny, **settings)
    config, _ = configuration(recipe)
    row = Row(trees=(70, 120, 33), scored=41, tiles=19, runs=19)
    counted = rehearse(recipe, config, row, stand=False, cuda=True).flops
    assert work_of(recipe, config).of(row) == pytest.approx(counted, rel=1e-9)


def test_work_grows_with_the_thaw(tiny):
    recipe = recipe_of(tiny, freeze={"vision": 50})
    config, _ = configuration(recipe)
    before, after = (work_of(recipe, config, step=step) for step in (0, 99))
    assert before.tile < 0.6 * after.tile
    assert before.token == after.token


# --- what is gathered together, what is sent -----------------------------------------------------------------------------


def test_units_are_all_parameters_once(tiny):
    recipe = recipe_of(tiny, freeze={"vision": 50})
    config, _ = configuration(recipe)
    first, last = (units_of(recipe, config, step=step) for step in (0, 99))
    layers = config.text_config.num_hidden_layers
    assert [unit.part for unit in last] == ["vision"] * 3 + ["connector"] + ["decoder"] * layers + ["root"]
    assert sum(unit.total for unit in last) == sum(unit.trainable for unit in last) == 1_053_888
    assert sum(unit.trainable for unit in first) == 1_053_888 - sum(unit.total for unit in last if unit.part == "vision")
    head = config.text_config.vocab_size * config.text_config.hidden_size
    assert last[-1].total == 2 * head + config.text_config.hidden_size  # embeddings, head, last norm


def test_ddp_s_bytes_by_hand():
    """Ring all-reduce: 2 (n - 1) / n of float32 gradients, at 70 % of the slowest link."""
    one, eight = cluster_of(A100, 8), cluster_of(A100, 64, network=100)
    assert (one.nodes, eight.nodes) == (1, 8)
    assert summed(1000, one).sent == 2 * 7 / 8 * 4000
    assert summed(10**9, one).seconds == pytest.approx(7e9 / (0.7 * 300e9))
    assert summed(10**9, eight).seconds == pytest.approx(2 * 63 / 64 * 4e9 / (0.7 * 100e9 / 8))
    assert summed(10**9, one).hidden == 0


def test_fsdp_s_bytes_by_hand():
    """Two rows, of 17 tiles and of none: the tower once, for both chunks, and the root's weights gathered once a row."""
    units = [
        Unit(part="vision", total=100, trainable=100), Unit(part="connector", total=10, trainable=10),
        Unit(part="decoder", total=1000, trainable=1000), Unit(part="root", total=500, trainable=500),
    ]  # fmt: skip
    tower, connector, layer, root = 100 * 8, 10 * 8, 1000 * 8, 500 * 6
    cluster = cluster_of(A100, 8)
    traffic = sharded(units, [(17, 1.0), (0, 1.0)], cluster, itemsize=2)
    assert traffic.sent == pytest.approx(7 / 8 * (tower + connector + 2 * layer + 2 * root))
    assert traffic.waited == pytest.approx(2 * 7 / 8 * root / cluster.slowest)  # all else runs beside a second of computing
    busy = sharded(units, [(17, 0.0)], cluster, itemsize=2)
    assert busy.waited == pytest.approx(busy.seconds)


@pytest.mark.parametrize(("devices", "per_node", "network"), [(1, 8, None), (12, 8, None), (8, 0, None), (16, 8, 0.0)])
def test_no_such_machines(devices, per_node, network):
    with pytest.raises(RecipeError, match=r"devices|network"):
        cluster_of(A100, devices, per_node=per_node, network=network)


# --- shares, memory, the whole ---------------------------------------------------------------------------------------------


def test_shares_are_the_run_s(tiny_split):
    """The same examples on the same rank as the stream gives them."""
    recipe = recipe_of(tiny_split)
    config, folder = configuration(recipe)
    renderer = load_renderer(folder, row_tokens=recipe.batch.row_tokens)
    stream = open_stream(recipe.data, renderer, shaping=objective_of(recipe.objective).shaping, seed=0)
    layout = layout_of(recipe, config, folder)
    cost = tile_cost_of(recipe, config)
    stream = replace(stream, tile_cost=cost)
    mine = shares(layout.steps[0], 3, cost)
    for rank in range(3):
        (step,) = stream.steps(0, 1, 16, rank=rank, world=3)
        assert sorted(length for row in step.rows for length in row.trees) == sorted(t for tree in mine[rank] for t in tree.trees)


def test_a_rank_of_ddp_holds_what_a_process_holds(tiny):
    recipe = recipe_of(tiny, **{"model.dtype": "bfloat16"})
    made = scale(recipe, gpu="A100-40GB", devices=2, sharding="ddp")
    alone = estimate(recipe, gpu="A100-40GB")
    for part in ("weights", "optimiser"):
        assert made.parts[part] == alone.parts[part]
    assert made.fits
    assert made.feed.encoded is None  # scenes are drawn
    assert any("there is no rate to read them at" in line for line in scaling_lines(made))


def test_more_devices_than_examples_a_step_is_told(tiny):
    """8 examples a step: of 12 devices 4 have nothing to do, whatever the examples cost."""
    recipe = recipe_of(tiny, **{"batch.examples": 8})
    told = scaling_lines(scale(recipe, gpu="A100-40GB", devices=12, per_node=4))
    line = (
        "note: a step has 8 examples for 12 devices, so 4 of them always have nothing to do; raise batch.examples to 12 or more, "
        "or take 8 devices"
    )
    assert told.count(line) == 1
    assert not any("nothing to do" in line for line in scaling_lines(scale(recipe, gpu="A100-40GB", devices=8)))


def test_a_rank_of_fsdp_holds_its_share(tiny):
    """bfloat16: 4 + 4 + 8 bytes a parameter over the ranks, whose float32 weights are the masters."""
    made = scale(recipe_of(tiny, **{"model.dtype": "bfloat16"}), gpu="A100-40GB", devices=4, sharding="fsdp")
    held = made.parts["weights"] + made.parts["gradients"] + made.parts["optimiser"]
    assert held == pytest.approx(16 * 1_053_888 / 4, rel=1e-5)
    config, _ = configuration(recipe_of(tiny))
    units = units_of(recipe_of(tiny), config)
    assert made.parts["gathered"] == 2 * (units[-1].total + 3 * max(unit.total for unit in units[:-1]))


@pytest.mark.parametrize(
    "settings", [{"adapters": {"method": "prompt"}}, {"adapters": {"method": "adalora"}}, {"optim.kind": "adamw_8bit"}]
)
def test_what_cannot_be_sharded(settings, tiny):
    with pytest.raises(RecipeError, match="sharded"):
        scale(recipe_of(tiny, **settings), gpu="H100", devices=2, sharding="fsdp")


def test_a_run_with_a_thaw(tiny):
    recipe = recipe_of(tiny, freeze={"vision": 40}, **{"run.save_every": 30})
    config, folder = configuration(recipe)
    made = scaled(recipe, config, layout_of(recipe, config, folder), device_for(recipe, "L4"), cluster_of(GPUS["L4"], 2))
    (until, first), (_, last) = made.phases
    assert until == 40
    assert first.trainable < last.trainable == 1_053_888
    assert first.seconds < last.seconds
    assert made.training == pytest.approx(40 * first.seconds + 60 * last.seconds)
    assert made.saves == 4
    # 4 bytes of weights and 8 of moments, float32; the rotary table is no parameter
    assert made.checkpoint == pytest.approx(12 * 1_053_888)
    assert any(line.startswith("before step 40") for line in scaling_lines(made))


def test_each_thaw_has_its_phase(tiny):
    """The decoder from step 10 on, the tower from 90 on; 10 steps of the first kind, 80 of the second, 10 of the last."""
    recipe = recipe_of(tiny, freeze={"decoder": 10, "vision": 90})
    config, folder = configuration(recipe)
    made = scaled(recipe, config, layout_of(recipe, config, folder), device_for(recipe, "L4"), cluster_of(GPUS["L4"], 2))
    tower = sum(unit.total for unit in units_of(recipe, config) if unit.part == "vision")
    trained = [(until, phase.trainable) for until, phase in made.phases]
    assert trained == [(10, 32_768), (90, 1_053_888 - tower), (None, 1_053_888)]
    first, second, last = (phase.seconds for _, phase in made.phases)
    assert first < second < last
    assert made.training == pytest.approx(10 * first + 80 * second + 10 * last)
    told = [line.partition(":")[0] for line in scaling_lines(made) if "parameters train" in line]
    assert told == ["before step 10", "before step 90", "after it"]


def test_more_ranks_less_time(tiny_split):
    recipe = recipe_of(tiny_split, **{"batch.examples": 32})
    config, folder = configuration(recipe)
    layout, device = layout_of(recipe, config, folder), device_for(recipe, "A100-40")
    two, eight = (scaled(recipe, config, layout, device, cluster_of(A100, n)) for n in (2, 8))
    assert two.last.flops == eight.last.flops
    assert eight.last.compute < 0.4 * two.last.compute
    assert two.feed.core_seconds(2) > eight.feed.core_seconds(8)
    assert eight.feed.core_seconds(8) > 32 * ASSUMED.render_ms / 1000  # which does not shrink


def test_core_seconds_by_hand():
    """Ten examples, four videos among them, laid out on every rank; 8 tiles and 16 frames shared by eight."""
    feed = Feed(examples=10, tiles=8, frames=16, videos=4, encoded=None)
    assert feed.core_seconds(8) == pytest.approx((10 * 1 + 4 * 17 + (8 * 11 + 16 * 30) / 8) / 1000)
    assert feed.core_seconds(10**9) == pytest.approx(0.078)  # which no number of ranks shares


def test_a_machine_s_own_memory_is_told(tiny_split):
    """Four ranks to a machine, each with its share of a step's pixels at work, and two for each of its three workers."""
    recipe = recipe_of(tiny_split, **{"batch.examples": 32, "run.workers": 3})
    config, folder = configuration(recipe)
    layout = layout_of(recipe, config, folder)
    made = scaled(recipe, config, layout, device_for(recipe, "A100-40"), cluster_of(A100, 8, per_node=4))
    tile = 3 * config.vision_config.image_size**2
    most = max(sum(tree.tiles for tree in share) for step in layout.steps for share in shares(step, 8, 0.0))
    assert made.host.shared == 7 * most * tile
    (told,) = (line for line in scaling_lines(made) if line.startswith("a machine's own memory"))
    assert f"{size(4 * made.host.total)} for 4 ranks with run.workers: 3, {size(4 * made.host.shared)} of it pixels" in told


def test_videos_of_the_data_are_counted(tiny):
    """Clips of three seconds: one a row."""
    data = [{"source": "video_star", "fixture": True}, {"source": "scenes", "split": "train[:8]"}]
    recipe = recipe_of(tiny, data=data, **{"batch.row_tokens": 2048})
    config, folder = configuration(recipe)
    layout = layout_of(recipe, config, folder)
    assert layout.measured
    trees = [tree for step in layout.steps for tree in step]
    assert {(tree.videos, bool(tree.frames)) for tree in trees} == {(0, False), (1, True)}
    made = scaled(recipe, config, layout, device_for(recipe, "A100-40"), cluster_of(A100, 2))
    assert made.feed.videos == sum(tree.videos for tree in trees) / len(layout.steps)
    assert any("17 ms more for each video," in line for line in scaling_lines(made))


# --- data ------------------------------------------------------------------------------------------------------------------


def test_assumed_examples_follow_the_mixture(tiny):
    data = [{"source": f"{kind}.jsonl", "modality": kind} for kind in ("image", "video", "text")]
    recipe = recipe_of(
        tiny,
        data=data,
        mixture={"image": 2, "video": 1, "text": 1},
        video={"max_frames": 5, "fps": 0.5},
        **{"batch.row_tokens": 512},
    )
    config, _ = configuration(recipe)
    layout = worst(recipe, config, "of the test", ImageSpec(tile=96, longest_edge=96))
    (step,) = layout.steps
    assert [tree.frames for tree in step] == [0] * 8 + [5] * 4 + [0] * 4
    assert [tree.tiles for tree in step] == [1] * 8 + [5] * 4 + [0] * 4
    assert [tree.videos for tree in step] == [0] * 8 + [1] * 4 + [0] * 4
    assert step[8].encoded == 10 * ASSUMED.video_bytes  # five frames at one in two seconds
    assert max(tree.tokens for tree in step) <= 512
    assert "8 image" in layout.source


def test_encoded_bytes(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x" * 100)
    record = {"id": "0", "source": "s", "messages": (), "responses": ()}

    def of(*parts):
        return encoded_bytes(Record(**record | {"messages": (Message(role="user", content=parts),)}))

    assert of(Media(ref=tmp_path / "a.jpg"), Media(ref=b"12345"), "text") == 105
    assert of(Media(ref=lambda: b"123"), Video(ref=b"12")) == 5
    assert of(Video(ref=tmp_path)) == 100
    assert of(Media(ref=tmp_path / "absent.jpg")) is None


# --- the page --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_page_s_table_is_the_code_s():
    """Three lines computed again: a thaw, DDP on several machines, FSDP. Of the others only that they are there."""
    lines = page.block().splitlines()
    assert lines[:2] == page.HEAD
    assert len(lines) == 2 + len(page.CASES)
    for line, (model, stage, devices, sharding) in zip(lines[2:], page.CASES):
        assert line.startswith(f"| {model.removeprefix('smolvlm2-').upper()}, {stage} | {devices}, {sharding} |")
    small, large = "smolvlm2-256m", "smolvlm2-500m"
    for case in ((small, "vision", 8, "ddp"), (small, "published", 64, "ddp"), (large, "video", 64, "fsdp")):
        assert lines[2 + page.CASES.index(case)] == page.row(*case)


def test_the_page_s_arithmetic():
    text = page.PAGE.read_text()
    recipe = page.recipe_of("video", "smolvlm2-256m")
    config, _ = configuration(recipe)
    total = sum(unit.total for unit in units_of(recipe, config))
    one, eight = summed(total, cluster_of(A100, 8)), summed(total, cluster_of(A100, 64))
    assert f"2 x 7/8 x 4 x {total / 1e6:.1f} M = {one.sent / 1e9:.2f} GB" in text
    assert f"{1000 * one.seconds:.0f} ms a step on NVLink and {1000 * eight.seconds:.0f} ms" in text.replace("\n", " ")
    feed = Feed(examples=256, tiles=0, frames=0, videos=84, encoded=None)
    assert f"84 of them videos, takes {feed.core_seconds(8):.1f} s of a core on every rank" in text
    assert f"256M needs {18 * total / 1e9:.1f} GB of states" in text
    for model, words in (("500m", "500M {:.1f} GB"), ("2.2b", "2.2B has {:.0f} GB of states")):
        recipe = page.recipe_of("video", f"smolvlm2-{model}")
        total = sum(unit.total for unit in units_of(recipe, configuration(recipe)[0]))
        assert words.format(18 * total / 1e9) in text
