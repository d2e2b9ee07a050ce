"""Preference optimisation against TRL's DPOTrainer: the same pairs and weights give the same log-probs, losses, rewards and
gradients. And a step does not depend on how its pairs are packed."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from smolforge.data.batch import PackedBatch
from smolforge.data.pipeline import Stream, open_stream, pack_rows, prepare
from smolforge.data.processor import load_renderer
from smolforge.data.render import Renderer
from smolforge.data.sources.scenes import SceneTable
from smolforge.model.adapters import add_adapters, target_modules
from smolforge.model.build import CLASSES, component, load_model
from smolforge.model.tree import TreeModel
from smolforge.objectives import Objective, Sums, objective_of, total_counts
from smolforge.objectives.comparison import Comparison
from smolforge.objectives.reference import Reference, frozen, without_adapters
from smolforge.recipe import DataSection, LoraSection, PreferenceSection, parse_recipe
from smolforge.records import Media, Record
from smolforge.training.loop import train
from smolforge.training.tracking import read_metrics

PAIRS = 4
NOISE = 0.03
LR = 1e-3
TRL_NAMES = {"nll": "sft"}  # where TRL calls a loss otherwise

CASES: dict[str, dict[str, Any]] = {
    "sigmoid": {"loss": "sigmoid"},
    "sigmoid, beta 1": {"loss": "sigmoid", "beta": 1.0},
    "hinge": {"loss": "hinge", "beta": 0.5},
    "ipo": {"loss": "ipo"},
    "sigmoid_norm": {"loss": "sigmoid_norm", "beta": 5.0},
    "robust": {"loss": "robust", "label_smoothing": 0.2},
    "exo_pair": {"loss": "exo_pair", "label_smoothing": 0.01},
    "nca_pair": {"loss": "nca_pair"},
    "bco_pair": {"loss": "bco_pair"},
    "sppo_hard": {"loss": "sppo_hard"},
    "apo_zero": {"loss": "apo_zero"},
    "apo_down": {"loss": "apo_down"},
    "discopop": {"loss": "discopop"},
    "nll": {"loss": "nll"},
    "MPO": {"loss": {"sigmoid": 0.8, "bco_pair": 0.2, "nll": 1.0}},
    "RPO": {"loss": "sigmoid", "nll": 0.5},
}


# --- one step ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a step computes before its optimiser moves anything. Gradients by Hugging Face's or PEFT's own names."""

    loss: float
    metrics: dict[str, float]
    gradients: dict[str, torch.Tensor]


def error(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference, relative to the expected norm."""
    return ((got.double() - expected.double()).norm() / expected.double().norm()).item()


def compare(got: Outcome, expected: Outcome, names: dict[str, str]) -> dict[str, float]:
    """Relative errors of the loss, of the metrics in `names` (ours -> theirs), of all gradients as one vector and of each.

    Gradients of the vision tower's `k_proj.bias` are zero in exact arithmetic (see test_tree.py): they are measured against
    the gradient of `k_proj.weight`.
    """
    assert got.gradients.keys() == expected.gradients.keys()
    whole = [torch.cat([one.gradients[name].flatten() for name in expected.gradients]) for one in (got, expected)]
    errors = {"loss": abs(got.loss / expected.loss - 1), "all gradients": error(*whole)}
    for ours, theirs in names.items():
        errors[ours] = abs(got.metrics[ours] / expected.metrics[theirs] - 1)
    for name, gradient in expected.gradients.items():
        scale = expected.gradients[name.replace("k_proj.bias", "k_proj.weight")].norm()
        errors[f"gradient of {name}"] = ((got.gradients[name] - gradient).norm() / scale).item()
    return errors


def gradients_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """By name; parameters that took no part have none."""
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def our_step(policy: TreeModel, reference: Reference, objective: Objective, rows: Sequence[PackedBatch]) -> Outcome:
    """The training loop's lines between the data and the optimiser."""
    rows = [replace(row, reference=reference(row)) for row in rows]
    model = policy.adapters[0].handle if policy.adapters else policy.model
    model.zero_grad(set_to_none=True)
    counts = total_counts(objective, rows)
    looked = dict.fromkeys(objective.looked, 0.0)
    if objective.look:
        with torch.no_grad():
            for row in rows:
                for name, value in objective.look(policy(row), row).items():
                    looked[name] += value
    shared, sums = objective.share(looked), Sums(objective, compared=True)
    for row in rows:
        output = objective.loss(policy(row), row, shared)
        loss = output.loss(counts)
        loss.backward()
        sums.add(output, loss)
    means = sums.means(counts, lambda values: values)
    return Outcome(
        loss=means.pop("loss"),
        metrics=means | {f"shared {name}": value for name, value in shared.items()},
        gradients=gradients_of(model),
    )


def stream_of(source: str, renderer: Renderer, objective: Objective) -> Stream:
    return open_stream([DataSection(source=source, split="train[:24]")], renderer, shaping=objective.shaping, seed=0)


def places_of(stream: Stream) -> list[int]:
    """The first examples whose two answers have different numbers of tokens."""
    lengths = ([len(stream.example(n).nodes[node].ids) for node in (1, 2)] for n in range(stream.num_rows))
    return [n for n, (chosen, rejected) in enumerate(lengths) if chosen != rejected][:PAIRS]


# --- TRL ---------------------------------------------------------------------------------------------------------------


def trl_processor(folder: Path) -> Any:
    """Hugging Face's processor. The last assistant turn ends with its closing token: the newline after it is not scored."""
    from transformers import Idefics3Processor

    processor = Idefics3Processor.from_pretrained(folder)
    end = "<end_of_utterance>\n{% endfor %}"
    assert end in processor.chat_template
    assert processor.tokenizer.eos_token == "<end_of_utterance>"
    once = "<end_of_utterance>{{ '' if loop.last and message['role'] == 'assistant' else '\n' }}{% endfor %}"
    processor.chat_template = processor.chat_template.replace(end, once)
    processor.tokenizer.chat_template = processor.chat_template
    return processor


def trl_row(record: Record) -> dict[str, Any]:
    """A row of TRL's; with pictures it puts them before the prompt's text, as our records do."""
    (user,) = record.messages
    pictures = [part.ref() for part in user.content if isinstance(part, Media)]  # type: ignore[operator]
    (prompt,) = (part for part in user.content if isinstance(part, str))

    def turn(role: str, text: str) -> list[dict[str, Any]]:
        return [{"role": role, "content": text if pictures else [{"type": "text", "text": text}]}]

    answers = {response.kind: turn("assistant", response.text) for response in record.responses}
    return {"prompt": turn("user", prompt), **answers} | ({"images": pictures} if pictures else {})


def trl_trainer(folder: Path, model: Any, records: Sequence[Record], processor: Any, *, steps: int = 1, **options: Any) -> Any:
    """A DPOTrainer whose data loader gives the records in this order, so many a batch that they fill `steps`."""
    pytest.importorskip("trl", reason="TRL is not installed: make bench installs it")
    from datasets import Dataset, Image, List
    from trl import DPOConfig, DPOTrainer

    dataset = Dataset.from_list([trl_row(record) for record in records])
    if "images" in dataset.column_names:
        dataset = dataset.cast_column("images", List(Image()))
    arguments = DPOConfig(
        output_dir=str(folder / "trl"), max_steps=steps, per_device_train_batch_size=len(records) // steps, learning_rate=LR,
        lr_scheduler_type="constant", warmup_steps=0, weight_decay=0.0, max_grad_norm=1.0, optim="adamw_torch", max_length=None,
        use_cpu=True, bf16=False, gradient_checkpointing=False, train_sampling_strategy="sequential", report_to="none",
        dataloader_pin_memory=False, logging_steps=1, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = DPOTrainer(model=model, args=arguments, train_dataset=dataset, processing_class=processor, **options)
    trainer.model.eval()
    return trainer


def their_step(trainer: Any, batch: Any, section: PreferenceSection) -> Outcome:
    trainer.beta, trainer.label_smoothing = section.beta, section.label_smoothing
    trainer.loss_types = [TRL_NAMES.get(name, name) for name in section.losses]
    trainer.loss_weights = [*section.losses.values()]
    trainer._metrics["eval"].clear()
    trainer.model.zero_grad(set_to_none=True)
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    metrics = {name: value for name, (value,) in trainer._metrics["eval"].items() if name != "num_tokens"}
    return Outcome(loss=loss.item(), metrics=metrics, gradients=gradients_of(trainer.model))


def their_pairs(trainer: Any, batch: Any) -> torch.Tensor:
    """Log-probs of each pair: chosen and rejected by the policy, then by the reference, (P, 4)."""
    with torch.no_grad():
        labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
        inputs = {name: value for name, value in batch.items() if name != "completion_mask"}
        policy = trainer.model(**inputs, labels=labels, use_cache=False, fused_lm_head=True).log_probs.sum(1).chunk(2)
        return torch.stack([*policy, *trainer.compute_ref_log_probs(trainer.ref_model or trainer.model, batch)], dim=1)


# --- both, side by side ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Sides:
    """The same pairs and weights on both sides."""

    policy: TreeModel
    reference: Reference
    stream: Stream
    places: list[int]
    trainer: Any
    batch: Any  # all pairs

    def ours(self, section: PreferenceSection) -> Outcome:
        objective = objective_of(section)
        rows = replace(self.stream, shaping=objective.shaping).step(self.places).rows
        return our_step(self.policy, self.reference, objective, rows)

    def theirs(self, section: PreferenceSection) -> Outcome:
        return their_step(self.trainer, self.batch, section)

    def our_pairs(self) -> list[Comparison]:
        """Every pair, in TRL's order."""
        compare = objective_of(PreferenceSection(kind="dpo")).compare
        assert compare
        found = {}
        for row in self.stream.step(self.places).rows:
            row = replace(row, reference=self.reference(row))
            with torch.no_grad():
                found |= {one.id: one for one in compare(self.policy(row), row)}
        return [found[self.stream.record(place).id] for place in self.places]


@torch.no_grad()
def perturb(module: torch.nn.Module, *, seed: int = 0) -> None:
    """Noise on every parameter that trains, so that log-ratios are some nats."""
    generator = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        if p.requires_grad:
            p += NOISE * torch.randn(p.shape, generator=generator)


def open_pairs(source: str, folder: Path) -> tuple[Stream, list[int]]:
    stream = stream_of(source, load_renderer(folder), objective_of(PreferenceSection(kind="dpo")))
    return stream, places_of(stream)


@pytest.fixture(scope="module")
def pictures(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Sides:
    """Pairs about pictures, every weight of the model trains."""
    policy, reference, folder = load_model(tiny), load_model(tiny), tmp_path_factory.mktemp("pictures")
    perturb(policy)
    stream, places = open_pairs("scene_pairs", tiny)
    records = [stream.record(place) for place in places]
    trainer = trl_trainer(folder, copy.deepcopy(policy), records, trl_processor(tiny), ref_model=copy.deepcopy(reference))
    return Sides(
        policy=TreeModel(policy),
        reference=frozen(TreeModel(reference)),
        stream=stream,
        places=places,
        trainer=trainer,
        batch=next(iter(trainer.get_train_dataloader())),
    )


@pytest.fixture(scope="module")
def texts(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Sides:
    """Pairs without pictures on a plain Llama, its head tied to its embeddings."""
    folder = tmp_path_factory.mktemp("texts")
    config = copy.deepcopy(load_model(tiny).config.text_config)
    config.tie_word_embeddings = True
    torch.manual_seed(0)
    reference = CLASSES["llama"][1](config).eval()
    policy = copy.deepcopy(reference)
    perturb(policy)
    rows = [SceneTable(pairs=True)[index] for index in range(24)]
    lines = [
        json.dumps({"prompt": f"Name {n} things.", "chosen": row["caption"], "rejected": row["rejected"]})
        for n, row in enumerate(rows)
    ]
    (folder / "pairs.jsonl").write_text("\n".join(lines))
    stream, places = open_pairs(str(folder / "pairs.jsonl"), tiny)
    records = [stream.record(place) for place in places]
    processor = trl_processor(tiny).tokenizer
    trainer = trl_trainer(folder, copy.deepcopy(policy), records, processor, ref_model=copy.deepcopy(reference))
    return Sides(
        policy=TreeModel(policy),
        reference=frozen(TreeModel(reference)),
        stream=stream,
        places=places,
        trainer=trainer,
        batch=next(iter(trainer.get_train_dataloader())),
    )


@pytest.fixture(scope="module")
def adapters(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Sides:
    """LoRA on the text model; the reference is the model with its adapters off."""
    from peft import LoraConfig

    folder, section = tmp_path_factory.mktemp("adapters"), LoraSection(r=4, alpha=8)
    stream, places = open_pairs("scene_pairs", tiny)
    records = [stream.record(place) for place in places]
    base = load_model(tiny)
    asked = LoraConfig(r=4, lora_alpha=8, target_modules=target_modules(base, section))
    trainer = trl_trainer(folder, base, records, trl_processor(tiny), peft_config=asked)
    perturb(trainer.model)
    policy = TreeModel(load_model(tiny))
    policy.attach(add_adapters(policy.model, section, base=tiny, seed=1))
    theirs = {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}
    ours = {name: p for name, p in policy.adapters[0].handle.named_parameters() if p.requires_grad}
    assert ours.keys() == theirs.keys()
    with torch.no_grad():
        for name, p in ours.items():
            p.copy_(theirs[name])
    return Sides(
        policy=policy,
        reference=without_adapters(policy),
        stream=stream,
        places=places,
        trainer=trainer,
        batch=next(iter(trainer.get_train_dataloader())),
    )


METRICS = {
    "rewards/chosen": "rewards/chosen", "rewards/rejected": "rewards/rejected", "rewards/margins": "rewards/margins",
    "accuracy/reward": "rewards/accuracies", "logps/chosen": "logps/chosen", "logps/rejected": "logps/rejected",
}  # fmt: skip

# Hugging Face's new name for a setting that TRL still uses by its old one.
trl_warns = pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing` is deprecated:FutureWarning")


def holds(errors: dict[str, float]) -> None:
    """Relative error under 1e-4: float32 sums in another order.

    Worst seen over all cases: 3.5e-6 in a loss, 7.3e-6 in a mean reward (a small difference of large sums), 1.9e-5 in a
    gradient (DiscoPOP on texts, where the pairs' parts nearly cancel; 1.5e-5 elsewhere, and 5.8e-6 for all as one vector).
    Against other packing 1.2e-6. Other noise can leave a mean reward near zero, or gradients that cancel more: 1.0e-4 seen.
    """
    worst = max(errors, key=errors.__getitem__)
    assert errors[worst] < 1e-4, f"{worst}: {errors[worst]:.1e}"


@trl_warns
@pytest.mark.parametrize("kind", ["pictures", "texts", "adapters"])
def test_log_probs_of_each_pair(kind: str, request: pytest.FixtureRequest) -> None:
    """Of policy and reference, every answer by itself; and the comparison is worth something: the two differ."""
    sides: Sides = request.getfixturevalue(kind)
    pairs = sides.our_pairs()
    assert len(pairs) == PAIRS
    assert all(one.chosen_tokens != one.rejected_tokens for one in pairs)
    lengths = [one.chosen_tokens for one in pairs] + [one.rejected_tokens for one in pairs]
    assert lengths == sides.batch["completion_mask"].sum(1).tolist()
    expected = their_pairs(sides.trainer, sides.batch)  # (P, 4)
    assert (expected[:, :2] - expected[:, 2:]).abs().mean() > 0.5  # nats
    got = torch.tensor([[one.chosen, one.rejected, one.chosen_reference, one.rejected_reference] for one in pairs])
    # One float32 rounding or two of sums of 40 to 200 nats. Worst seen: 1.8e-7.
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=0)


@trl_warns
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["pictures", "texts"])
def test_one_step(kind: str, case: str, request: pytest.FixtureRequest) -> None:
    sides: Sides = request.getfixturevalue(kind)
    section = PreferenceSection(kind="dpo", **CASES[case])
    got, expected = sides.ours(section), sides.theirs(section)
    if kind == "pictures":  # all three components learn
        parts = {component(name) for name, gradient in expected.gradients.items() if gradient.any()}
        assert parts == {"vision", "connector", "decoder"}
    holds(compare(got, expected, METRICS))


@trl_warns
@pytest.mark.parametrize("loss", ["sigmoid", "ipo", "bco_pair"])
def test_several_rejected_answers(loss: str, pictures: Sides) -> None:
    """One tree for a prompt with two rejected answers; two rows of TRL's, each with the prompt and the chosen answer again."""
    section = PreferenceSection(kind="dpo", loss=loss)  # type: ignore[arg-type]
    given = [pictures.stream.record(place) for place in pictures.places]
    lent = [replace(record.responses[0], kind="rejected") for record in [*given[1:], given[0]]]
    records = [replace(record, responses=(*record.responses, other)) for record, other in zip(given, lent)]
    ((_, row),) = pack_rows([prepare(record, pictures.stream.renderer) for record in records], 4096)
    got = our_step(pictures.policy, pictures.reference, objective_of(section), [row])
    pairs = [replace(r, responses=(r.responses[0], rejected)) for r in records for rejected in r.responses[1:]]
    batch = pictures.trainer.data_collator([trl_row(pair) for pair in pairs])
    assert len(batch["input_ids"]) == 2 * 2 * PAIRS
    holds(compare(got, their_step(pictures.trainer, batch, section), METRICS))


@trl_warns
@pytest.mark.parametrize("case", ["sigmoid", "MPO"])
def test_one_step_of_adapters(case: str, adapters: Sides) -> None:
    """A and B of every layer, the reference by switching them off."""
    section = PreferenceSection(kind="dpo", **CASES[case])
    got, expected = adapters.ours(section), adapters.theirs(section)
    assert all("lora_" in name and gradient.any() for name, gradient in expected.gradients.items())
    holds(compare(got, expected, METRICS))


@trl_warns
def test_training(tiny: Path, tmp_path: Path) -> None:
    """Four whole steps, with reference log-probs computed ahead, rows of a few examples, AdamW and clipping.

    Worst relative errors seen: loss 3.0e-6, gradient norm 5.4e-6, log-probs 1.2e-6, all weights' change 1.4e-4 (AdamW divides
    by the gradient, which where it is next to nothing is rounding); rewards 1.2e-5 nats.
    """
    settings = {
        "model": {"name": str(tiny)},
        "data": [{"source": "scene_pairs", "split": "train[:24]"}],
        "objective": {"kind": "dpo"},
        "eval": {"examples": 1, "samples": 0},
        "optim": {"lr": LR, "warmup": 0, "schedule": "constant"},
        "batch": {"examples": 4, "row_tokens": 160},
        "cache": {"dir": str(tmp_path / "cache")},
        "run": {"dir": str(tmp_path / "run"), "steps": 4, "device": "cpu", "trackers": [], "workers": 0},
    }
    folder = train(parse_recipe(settings))
    ours = [entry for entry in read_metrics(folder) if entry["kind"] == "train"]

    stream, _ = open_pairs("scene_pairs", tiny)
    records = [stream.record(place) for place in range(16)]
    before = load_model(tiny)
    trainer = trl_trainer(tmp_path, load_model(tiny), records, trl_processor(tiny), steps=4, ref_model=before)
    trainer.train()
    theirs = [entry for entry in trainer.state.log_history if "loss" in entry]

    assert len(ours) == len(theirs) == 4
    names = {"loss": "loss", "grad_norm": "grad_norm"} | METRICS
    for got, expected in zip(ours, theirs):
        for our_name, their_name in names.items():
            assert got[our_name] == pytest.approx(expected[their_name], rel=1e-4, abs=1e-4), our_name
    after = load_model(folder / "model").state_dict()
    moved = [torch.cat([(w[n] - p).flatten() for n, p in before.named_parameters()]) for w in (after, trainer.model.state_dict())]
    assert error(*moved) < 1e-3


# --- packing -----------------------------------------------------------------------------------------------------------

PACKED: dict[str, dict[str, Any]] = {
    "sigmoid": {"loss": "sigmoid"},
    "ipo": {"loss": "ipo"},
    "MPO": CASES["MPO"],
    "dense": {"loss": "sigmoid", "dense": {"gamma": 5.0}},
    "mDPO": {"loss": "sigmoid", "picture": {"kind": "crop"}},
    "kto": {"loss": "kto", "desirable": 1.5},
}


@pytest.fixture(scope="module")
def models(tiny: Path) -> tuple[TreeModel, Reference]:
    """Policy and reference. The noise is the reference's: so answers are likelier by the policy, and KTO's KL is positive."""
    policy, reference = load_model(tiny), load_model(tiny)
    perturb(reference)
    return TreeModel(policy), frozen(TreeModel(reference))


@pytest.mark.parametrize("case", PACKED)
def test_packing_changes_nothing(case: str, models: tuple[TreeModel, Reference], tiny: Path) -> None:
    """Nine examples in one row, or in rows of two or so: loss, every metric and every gradient are the same."""
    objective = objective_of(PreferenceSection(kind="dpo", **PACKED[case]))
    wide = stream_of("scene_pairs", load_renderer(tiny), objective)
    longest = max(wide.example(place).num_tokens for place in range(9))
    narrow = replace(wide, renderer=replace(wide.renderer, row_tokens=2 * longest))
    (together,), apart = (stream.step(range(9)).rows for stream in (wide, narrow))
    assert len(together.ids) == 9
    assert len(apart) > 2
    assert len({len(row.ids) for row in apart}) > 1  # rows of unequal numbers of examples
    one, several = (our_step(*models, objective, rows) for rows in ((together,), apart))
    assert ("shared kl" in one.metrics) == (case == "kto")
    assert one.metrics.get("shared kl") != 0
    holds(compare(several, one, {name: name for name, value in one.metrics.items() if value}))
