"""How to use what was published: code that a reader can copy."""

from __future__ import annotations

from smolforge.publishing.markdown import code, name, section
from smolforge.publishing.subject import Subject

IN_LAYERS = ("LORA", "ADALORA", "VERA", "IA3")  # kinds for which PEFT's model generates like the one it wraps
IMAGE = "picture.jpg"

SEEING = """\
from PIL import Image
{peft_import}from transformers import AutoModelForImageTextToText, AutoProcessor

processor = AutoProcessor.from_pretrained("{processor}")
{load}
picture = Image.open("{image}").convert("RGB")
messages = [{{"role": "user", "content": [{{"type": "image"}}, {{"type": "text", "text": "What is in the picture?"}}]}}]
prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
inputs = processor(text=prompt, images=[picture], return_tensors="pt")
tokens = model.generate(**inputs, max_new_tokens=64)
print(processor.decode(tokens[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
"""

READING = """\
{peft_import}from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{processor}")
{load}
messages = [{{"role": "user", "content": "What is the capital of France?"}}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
tokens = model.generate(**inputs, max_new_tokens=64)
print(tokenizer.decode(tokens[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
"""


def using_section(subject: Subject, repo: str) -> str:
    """Code for transformers, with PEFT for adapters, and the command line, which reads adapters that PEFT does not."""
    asks = f' --image {IMAGE} --prompt "What is in the picture?"' if subject.sees is not False else ' --prompt "..."'
    ours = code(f"smolforge generate {repo}{asks}", "sh")
    base = ""
    if subject.adapter and subject.base and not subject.base.hub:
        called = name(subject.base.name)
        base = (
            "These adapters need the model that they were trained beside, a folder whose name on the Hub is not known: "
            f"put its path in the place of {called}, or call it so."
        )
    parts = [ours]
    if subject.sees is not None and (not subject.adapter or subject.config.get("peft_type") in IN_LAYERS):
        needs = "transformers torch torchvision pillow num2words" if subject.sees else "transformers torch"
        parts = [
            code(snippet(subject, repo), "python"),
            f"needs `pip install {needs}{' peft' if subject.adapter else ''}`; or",
            ours,
        ]
    return section("Use", base, *parts)


def snippet(subject: Subject, repo: str) -> str:
    """Python that loads and asks it.

    Args:
        repo: a name on the Hub; a folder works as well.
    """
    kind = "AutoModelForImageTextToText" if subject.sees else "AutoModelForCausalLM"
    base = subject.base
    if subject.adapter:
        assert base is not None, "adapters name their base"
        revision = f', revision="{base.revision}"' if base.revision else ""
        load = f'model = {kind}.from_pretrained("{base.name}"{revision})\nmodel = PeftModel.from_pretrained(model, "{repo}")'
        own = (subject.folder / "tokenizer.json").is_file()
        source = repo if own and not subject.sees else base.name  # a processor asks config.json, which adapters do not have
    else:
        load, source = f'model = {kind}.from_pretrained("{repo}")', repo
    peft = "from peft import PeftModel\n" if subject.adapter else ""
    return (SEEING if subject.sees else READING).format(peft_import=peft, processor=source, load=load, image=IMAGE)
