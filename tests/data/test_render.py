"""The renderer against Hugging Face's processor, id for id, and what it does when an example is too long."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example as such_as
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tokenizers import Tokenizer
from transformers import Idefics3Processor, PreTrainedTokenizerFast

from smolforge.data.chat import CHATML, SMOLLM_SYSTEM
from smolforge.data.media import fewer_tiles, tile_grid
from smolforge.data.processor import load_renderer
from smolforge.data.render import CUT, Example, Renderer
from smolforge.errors import DataError
from smolforge.records import Media, Message, Record, Response

WIDE, TALL, SQUARE = (640, 240), (90, 200), (50, 50)
SMOLLM2_TEMPLATE = (  # tokenizer_config.json of SmolLM2-135M-Instruct
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\n" + SMOLLM_SYSTEM + "<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def picture(size: tuple[int, int]) -> Media:
    return Media(ref=Image.new("RGB", size, "orange"))


def user(*parts: str | tuple[int, int]) -> Message:
    """A user's turn of texts and, where a size is given, pictures."""
    return Message(role="user", content=tuple(part if isinstance(part, str) else picture(part) for part in parts))


def assistant(text: str, *, train: bool = False) -> Message:
    return Message(role="assistant", content=(text,), train=train)


def system(text: str) -> Message:
    return Message(role="system", content=(text,))


def record(*messages: Message, answers: tuple[str, ...] = ()) -> Record:
    return Record(id="1", source="test", messages=messages, responses=tuple(Response(text=text) for text in answers))


def path(example: Example, node: int) -> list[int]:
    """Ids from the root to the node's end: what the plain model would read."""
    ids: list[int] = []
    while node >= 0:
        ids = [*example.nodes[node].ids.tolist(), *ids]
        node = example.nodes[node].parent
    return ids


def prompt(renderer: Renderer, *messages: Message) -> list[int]:
    example = renderer.render(record(*messages))
    return path(example, len(example.nodes) - 1)


def reference(processor: Idefics3Processor, *messages: Message, **options: object) -> list[int]:
    """Ids of Hugging Face's processor; `generate=False` leaves the last `Assistant:` out."""
    generate = bool(options.pop("generate", True))
    turns = [
        {
            "role": message.role,
            "content": [
                {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"} for part in message.content
            ],
        }
        for message in messages
    ]
    images = [part.ref for message in messages for part in message.content if isinstance(part, Media)]
    text = processor.apply_chat_template(turns, add_generation_prompt=generate)
    return processor(text=text, images=images or None, **options)["input_ids"][0]


@pytest.fixture(scope="module")
def real(shared: Path) -> Renderer:
    return load_renderer(shared / "smolvlm-256m-processor")


@pytest.fixture(scope="module")
def real_processor(shared: Path) -> Idefics3Processor:
    """The processor on its own tokenizer.json. `from_pretrained` follows `tokenizer_class: GPT2Tokenizer`, for which
    transformers 5 builds a tokenizer anew and leaves the splitting of digits out (two spaces before a digit differ)."""
    folder = shared / "smolvlm-256m-processor"
    plain = Idefics3Processor.from_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    return Idefics3Processor(plain.image_processor, tokenizer, image_seq_len=64, chat_template=plain.chat_template)


@pytest.fixture(scope="module")
def small(tiny_split: Path) -> Renderer:
    return load_renderer(tiny_split)


@pytest.fixture(scope="module")
def small_processor(tiny_split: Path) -> Idefics3Processor:
    return Idefics3Processor.from_pretrained(tiny_split)


@pytest.fixture(scope="module")
def smollm2(shared: Path) -> Renderer:
    tokenizer = Tokenizer.from_file(str(shared / "smolvlm-256m-processor" / "tokenizer.json"))
    return Renderer(tokenizer=tokenizer, chat=replace(CHATML, system=SMOLLM_SYSTEM), context=8192)


@pytest.fixture(scope="module")
def smollm2_tokenizer(smollm2: Renderer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=smollm2.tokenizer, chat_template=SMOLLM2_TEMPLATE)


@pytest.fixture(scope="module")
def first_release(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The layout of SmolVLM-Instruct 2.2B: 49,155 ids, of which tile marks are none but BPE strings."""
    old, new = shared / "smolvlm-256m-processor", tmp_path_factory.mktemp("first_release")

    def change(name: str, **changes: object) -> dict:
        content = json.loads((old / name).read_text()) | changes
        (new / name).write_text(json.dumps(content))
        return content

    tokenizer = json.loads((old / "tokenizer.json").read_text())
    base = [token for token in tokenizer["added_tokens"] if token["id"] < 49152]
    kept = ("<fake_token_around_image>", "<image>", "<end_of_utterance>")
    like = next(token for token in tokenizer["added_tokens"] if token["content"] == "<image>")
    added = [*base, *(like | {"id": 49152 + n, "content": name} for n, name in enumerate(kept))]
    change("tokenizer.json", added_tokens=added)
    decoder = {str(token["id"]): {k: v for k, v in token.items() if k != "id"} for token in added}
    change("tokenizer_config.json", added_tokens_decoder=decoder)
    change("special_tokens_map.json")
    change("chat_template.json")
    change("processor_config.json", image_seq_len=81)
    change("preprocessor_config.json", max_image_size={"longest_edge": 384}, size={"longest_edge": 1536})
    vision = {"image_size": 384, "patch_size": 14}
    change("config.json", scale_factor=3, image_token_id=49153, vision_config=vision)
    return new


# --- prompts -------------------------------------------------------------------------------------------------------

CONVERSATIONS = {
    "no picture": (user("What color is the sky?"),),
    "picture first": (user(SQUARE, "What is it?"),),
    "picture alone": (user(SQUARE),),
    "picture in the middle": (user("What is in ", WIDE, " this image?"),),
    "picture last": (user("Look at this: ", TALL),),
    "several pictures": (user(WIDE, "Compare it with", SQUARE, TALL, "\nAre they alike?"),),
    "several texts": (user("One, ", "two, ", "three."),),
    "turns": (user(SQUARE, "Hi."), assistant("Hello!"), user("And this?", TALL), assistant("12 cats."), user("Why?")),
    "system message": (system("You are terse. "), user(SQUARE, "Describe it.")),
    "odd texts": (user("  two spaces\n\n\nnewlines\t1234 ½ Ünïcödé 日本語 😀 <row_1 <|x|>  "),),
}


@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("split", [True, False])
def test_prompts_equal_transformers(name: str, split: bool, small: Renderer, small_processor: Idefics3Processor) -> None:
    renderer = replace(small, images=replace(small.images, split=split))
    messages = CONVERSATIONS[name]
    assert prompt(renderer, *messages) == reference(small_processor, *messages, do_image_splitting=split)


@pytest.mark.parametrize("name", ["no picture", "several pictures", "odd texts"])
def test_real_prompts_equal_transformers(name: str, real: Renderer, real_processor: Idefics3Processor) -> None:
    """The 256M's processor; its grids are 2 x 4, 4 x 4 and 4 x 2."""
    messages = CONVERSATIONS[name]
    assert prompt(real, *messages) == reference(real_processor, *messages)


def test_real_prompts_equal_the_processor_as_loaded(shared: Path, real: Renderer) -> None:
    processor = Idefics3Processor.from_pretrained(shared / "smolvlm-256m-processor")
    for name in ("no picture", "turns"):
        assert prompt(real, *CONVERSATIONS[name]) == reference(processor, *CONVERSATIONS[name])


def test_real_prompts_unsplit(real: Renderer, real_processor: Idefics3Processor) -> None:
    renderer = replace(real, images=replace(real.images, split=False))
    messages = CONVERSATIONS["several pictures"]
    assert prompt(renderer, *messages) == reference(real_processor, *messages, do_image_splitting=False)


@pytest.mark.parametrize("name", ["no picture", "picture in the middle", "several pictures", "system message"])
@pytest.mark.parametrize("split", [True, False])
def test_first_release_equals_transformers(name: str, split: bool, first_release: Path) -> None:
    """Tile marks as nine BPE pieces each, 81 placeholders a tile."""
    renderer = load_renderer(first_release)
    assert renderer.tokenizer.get_vocab_size() == 49155
    assert renderer.image_id == 49153
    assert renderer.image_tokens == 81
    renderer = replace(renderer, images=replace(renderer.images, split=split))
    processor = Idefics3Processor.from_pretrained(first_release)
    messages = CONVERSATIONS[name]
    ids = prompt(renderer, *messages)
    assert ids == reference(processor, *messages, do_image_splitting=split)
    assert max(ids) < 49155


def test_golden_prompts(shared: Path, real: Renderer) -> None:
    """Ids that another implementation computed."""
    plain, with_picture = json.loads((shared / "golden_prompt_ids.json").read_text())["smolvlm_chat"]
    assert prompt(real, user("What color is the sky?")) == plain["ids"]
    place = with_picture["ids"].index(49190)
    expected = with_picture["ids"][:place]
    for row in range(4):
        for column in range(4):
            expected += [49189, 49153 + 6 * row + column] + [49190] * 64
        expected += [198] if row < 3 else [1116]  # the last row's newline and the one after it are one token
    expected += [49189, 49152] + [49190] * 64 + [49189] + with_picture["ids"][place + 1 :]
    size = tuple(with_picture["image_size"])
    assert prompt(real, user("What is in ", size, " this image?")) == expected


def test_golden_smollm2_prompt(shared: Path, smollm2: Renderer) -> None:
    """SmolLM2's ChatML with its default system message; the golden ids end before the answer's opening."""
    golden = json.loads((shared / "golden_prompt_ids.json").read_text())["smollm2_135m_instruct"]
    opening = list(smollm2.encode("<|im_start|>assistant\n"))
    assert prompt(smollm2, user("Hello, my name is")) == golden["expected_chat_ids"] + opening


@pytest.mark.parametrize(
    "messages",
    [
        (user("Hi."),),
        (system("Be brief."), user("Hi.")),
        (user("Hi."), assistant("Hello!"), user("\n\nWhat is 2 + 2?")),
    ],
)
def test_smollm2_prompts_equal_transformers(
    messages: tuple[Message, ...], smollm2: Renderer, smollm2_tokenizer: PreTrainedTokenizerFast
) -> None:
    assert prompt(smollm2, *messages) == chatml(smollm2_tokenizer, *messages)


def chatml(tokenizer: PreTrainedTokenizerFast, *messages: Message, generate: bool = True) -> list[int]:
    """Ids of SmolLM2's chat template through transformers' tokenizer."""
    turns = [{"role": message.role, "content": "".join(map(str, message.content))} for message in messages]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=generate)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.slow
def test_gguf_tokenizer_equals_the_published_one(smollm2: Renderer, gguf: Path) -> None:
    """A GGUF of SmolLM2 carries the merges, and the name of the splitting (`smollm`: digits one by one) before them."""
    renderer = load_renderer(gguf)
    for text in ("Hello, my name is", "In 2024:\n\n12 cats,  3 dogs", " ½ Ünïcödé 日本語 😀"):
        assert renderer.encode(text) == smollm2.encode(text)
    assert prompt(renderer, user("Hi.")) == prompt(smollm2, user("Hi."))


# --- answers -------------------------------------------------------------------------------------------------------

CHARACTERS = st.one_of(st.sampled_from(" \n\t.:<|>1a'é"), st.characters(codec="utf-8"))
TEXTS = st.text(CHARACTERS, min_size=1, max_size=12).filter(lambda text: not re.search(r"<\S+>", text))
ANSWERS = TEXTS.filter(str.strip)


def test_answers_branch_from_the_prompt(small: Renderer, small_processor: Idefics3Processor) -> None:
    """Each response's path is the processor's ids of the whole conversation, less the newline after it."""
    messages = (user(WIDE, "What is it?"),)
    answers = ("A cat.", "A dog.", "12 birds")
    example = small.render(record(*messages, answers=answers))
    assert [example.nodes[node].parent for node, _ in example.responses] == [0, 0, 0]
    for (node, kind), answer in zip(example.responses, answers, strict=True):
        assert kind == "target"
        whole = reference(small_processor, *messages, assistant(answer), generate=False)
        assert path(example, node) + list(small.encode("\n")) == whole


def test_trained_turns_are_nodes(small: Renderer, small_processor: Idefics3Processor) -> None:
    """A chat with two trained turns and one that is context is a chain; its path is the processor's ids."""
    messages = (
        user(SQUARE, "First?"), assistant("One.", train=True), user("Second?"), assistant("Two."),
        user("Third?", TALL), assistant("Three.", train=True), user("Fourth?"),
    )  # fmt: skip
    example = small.render(record(*messages, answers=("Four.",)))
    assert [node.parent for node in example.nodes] == [-1, 0, 1, 2, 3, 4]
    assert [node for node, _ in example.responses] == [1, 3, 5]
    whole = reference(small_processor, *messages, assistant("Four."), generate=False)
    assert path(example, 5) + list(small.encode("\n")) == whole
    spoken = [small.tokenizer.decode(example.nodes[n].ids, skip_special_tokens=False) for n, _ in example.responses]
    assert spoken == [f" {text}<end_of_utterance>" for text in ("One.", "Three.", "Four.")]


def test_any_answer_equals_transformers(real: Renderer, real_processor: Idefics3Processor) -> None:
    """Prompt and answer tokenised apart give the ids of the whole."""

    @given(text=ANSWERS, question=TEXTS)
    def holds(text: str, question: str) -> None:
        example = real.render(record(user(question), answers=(text,)))
        whole = reference(real_processor, user(question), assistant(text), generate=False)
        assert path(example, 1) + list(real.encode("\n")) == whole

    holds()


def test_any_smollm2_answer_equals_transformers(smollm2: Renderer, smollm2_tokenizer: PreTrainedTokenizerFast) -> None:
    """As above, for ChatML. There a newline stands before the answer, and white space that begins one would join it in the
    whole; apart, the prompt's ids are those that generation starts from."""

    @given(text=ANSWERS.filter(lambda text: not text[0].isspace()), question=TEXTS)
    @such_as(text=" A cat.", question="What?")
    def holds(text: str, question: str) -> None:
        example = smollm2.render(record(user(question), answers=(text,)))
        whole = chatml(smollm2_tokenizer, user(question), assistant(text), generate=False)
        assert path(example, 1) + list(smollm2.encode("\n")) == whole

    holds()


def test_only_answers_are_trained(small: Renderer) -> None:
    """Weight 1 on an answer's text and its closing token, 0 on everything else."""
    example = small.render(
        record(system("Be kind."), user(WIDE, "A?"), assistant("B.", train=True), user("C?"), answers=("D.", "E."))
    )
    trained = {node for node, _ in example.responses}
    for index, node in enumerate(example.nodes):
        assert node.weights.dtype == np.float32
        assert np.all(node.weights == (index in trained))
    scored = np.concatenate([node.ids[node.weights > 0] for node in example.nodes])
    text = small.tokenizer.decode(scored, skip_special_tokens=False)
    assert text == " B.<end_of_utterance> D.<end_of_utterance> E.<end_of_utterance>"


def test_placeholder_runs(small: Renderer) -> None:
    """Each tile's run stands where the example says, in the order of the tiles, and nowhere else is a placeholder."""
    example = small.render(record(user("a", WIDE, "b", SQUARE), assistant("c", train=True), user(TALL), answers=("d",)))
    assert [image.node for image in example.images] == [0, 0, 2]
    assert [len(image.starts) for image in example.images] == [9, 17, 9]
    check_runs(example, small)


def check_runs(example: Example, renderer: Renderer) -> None:
    size = renderer.image_tokens
    expected = [np.zeros(len(node.ids), bool) for node in example.nodes]
    for image in example.images:
        grid = tile_grid(image.picture.width, image.picture.height, image.spec)
        assert len(image.starts) == grid.tiles
        assert list(image.starts) == sorted(image.starts)
        for start in image.starts:
            run = expected[image.node][start : start + size]
            assert len(run) == size
            assert not run.any()
            run[:] = True
    for node, placeholders in zip(example.nodes, expected, strict=True):
        assert np.array_equal(node.ids == renderer.image_id, placeholders)


# --- too long ------------------------------------------------------------------------------------------------------

WORDS = ["a", "red", "circle", "at", "the", "top", "left", "and", "a", "blue", "square", "in", "the", "middle"]
MIDDLING = st.integers(0, 80).map(lambda n: " ".join(WORDS[i % len(WORDS)] for i in range(n)))
PICTURES = st.lists(st.tuples(st.integers(1, 700), st.integers(1, 700)), max_size=3)
MARK = 12  # tokens that a text keeps at least when it is cut: the mark and two or three on either side


def laid_out(renderer: Renderer, what: Record, **spec: object) -> Example:
    """The example with nothing cut but what `spec` says."""
    images = replace(renderer.images, **spec)
    return replace(renderer, images=images, context=10**9, row_tokens=10**9).render(what)


def excess(renderer: Renderer, example: Example, reserve: int) -> int:
    return max(example.depth + reserve - renderer.context, example.num_tokens - renderer.row_tokens)


def test_length_policy(small: Renderer) -> None:
    """Fewer tiles first, as few steps as will do; then text; then the example is refused. Runs and answers stay whole."""

    @given(
        sizes=PICTURES,
        text=MIDDLING,
        answers=st.lists(MIDDLING.filter(bool), max_size=3),
        context=st.integers(20, 500),
        row=st.integers(20, 700),
        reserve=st.integers(0, 30),
    )
    def holds(sizes: list[tuple[int, int]], text: str, answers: list[str], context: int, row: int, reserve: int) -> None:
        renderer = replace(small, context=context, row_tokens=row)
        what = record(user(*sizes, text), answers=tuple(answers))
        specs = [renderer.images]
        while (following := fewer_tiles(specs[-1])) is not None:
            specs.append(following)
        uncut = [laid_out(small, what, longest_edge=spec.longest_edge, split=spec.split) for spec in specs]
        fits = [excess(renderer, example, reserve) <= 0 for example in uncut]
        try:
            example = renderer.render(what, reserve=reserve)
        except DataError:
            assert not any(fits)
            bare = laid_out(small, record(user(*sizes, ""), answers=tuple(answers)), split=False)
            assert excess(renderer, bare, reserve) + MARK > 0
            return
        check_runs(example, renderer)
        assert excess(renderer, example, reserve) <= 0
        for (node, _), (whole, _) in zip(example.responses, uncut[0].responses, strict=True):
            assert np.array_equal(example.nodes[node].ids, uncut[0].nodes[whole].ids)
        assert ("prompt text cut" in example.changes) == (not any(fits))
        if any(fits):
            best = uncut[fits.index(True)]
            assert path(example, 0) == path(best, 0)
            assert bool(example.changes) == (path(best, 0) != path(uncut[0], 0))
        else:
            assert all(len(image.starts) == 1 for image in example.images)
            assert CUT.strip() in small.tokenizer.decode(path(example, 0))

    holds()


def test_fewer_tiles_are_reported_from_the_first_number(small: Renderer) -> None:
    """17 tiles fit at none of the first steps; the report gives what the checkpoint would have taken and what it got."""
    renderer = replace(small, context=100)
    example = renderer.render(record(user(SQUARE, "What is it?"), answers=("A cat.",)))
    assert [len(image.starts) for image in example.images] == [5]
    assert example.changes == ("fewer tiles: 17 -> 5",)


def test_cut_text_keeps_both_ends(small: Renderer) -> None:
    text = "First, read this. " + "a red circle " * 100 + "Last, answer it."
    renderer = replace(small, context=200)
    example = renderer.render(record(user(SQUARE, text), answers=("A cat.",)))
    shown = small.tokenizer.decode(path(example, 0))
    assert "First, read this." in shown
    assert CUT in shown
    assert shown.rstrip().endswith("Last, answer it.\nAssistant:")
    assert [len(image.starts) for image in example.images] == [1]
    assert example.changes[-1] == "prompt text cut"
    assert renderer.context - 12 < example.depth <= renderer.context


def test_several_texts_are_cut_before_an_example_is_refused(small: Renderer) -> None:
    """Neither text can give all that is too much, both together can."""
    renderer = replace(small, context=120)
    text = "a red circle " * 30
    example = renderer.render(record(user(text), assistant("Yes."), user(text), answers=("A cat.",)))
    assert example.depth <= 120
    assert example.changes == ("prompt text cut",)


def test_answers_are_never_cut(small: Renderer) -> None:
    renderer = replace(small, context=60)
    with pytest.raises(DataError, match="too long") as caught:
        renderer.render(record(user("What is it?"), answers=("a red circle " * 60,)))
    assert caught.value.where.startswith("test[1]")
    with pytest.raises(DataError, match="too long"):
        renderer.render(record(user("What?"), assistant("a red circle " * 60, train=True), user("And?")))


# --- refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "token",
    ["<image>", "<end_of_utterance>", "<fake_token_around_image>", "<row_2_col_3>", "<global-img>", "<|im_start|>"],
)
def test_control_tokens_are_refused(token: str, small: Renderer) -> None:
    text = f"before {token} after"
    for what in (
        record(user(text)),
        record(system(text), user("Hi.")),
        record(user("Hi."), assistant(text), user("Hi.")),
        record(user("Hi."), assistant(text, train=True)),
        record(user("Hi."), answers=("fine", text)),
    ):
        with pytest.raises(DataError, match=token.replace("|", r"\|")) as caught:
            small.render(what)
        assert caught.value.where.startswith("test[1]")


def test_control_token_over_two_parts_is_refused(small: Renderer) -> None:
    """Parts of a message are joined before they are tokenised, so half a token in each is a whole one."""
    with pytest.raises(DataError):
        small.render(record(user("<im", "age>")))


@pytest.mark.parametrize("text", ["", " ", "\n\t"])
def test_empty_answers_are_refused(text: str, small: Renderer) -> None:
    with pytest.raises(DataError, match="empty answer"):
        small.render(record(user("Hi."), answers=("fine", text)))
    with pytest.raises(DataError, match="empty answer"):
        small.render(record(user("Hi."), assistant(text, train=True)))


def test_pictures_where_none_can_be(small: Renderer, smollm2: Renderer) -> None:
    with pytest.raises(DataError, match="text-only"):
        smollm2.render(record(user(SQUARE, "What is it?")))
    trained = Message(role="assistant", content=("Here: ", picture(SQUARE)), train=True)
    with pytest.raises(DataError, match="picture") as caught:
        small.render(record(user("Hi."), trained))
    assert caught.value.where.startswith("test[1]")
