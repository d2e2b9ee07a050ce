"""How a conversation becomes text: the family's two chat formats, as literal strings.

SmolVLM and Idefics3 checkpoints speak `SMOLVLM`, SmolLM2 text models speak ChatML. A response begins at a place where the
tokenizer splits anyway, so a prompt and its responses can be tokenised apart and still give the ids of the whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from smolforge.records import Media, Message, Part

SMOLLM_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


@dataclass(frozen=True, kw_only=True)
class ChatFormat:
    """Pieces of a conversation's text. Roles are written as `role` says, a response is `lead + text + close`."""

    begin: str  # once, before the first message
    turn: str  # before a message's content; {role} is replaced
    capitalize: bool  # role names with a capital
    lead: str  # between a turn's opening and a text (left out before a picture)
    close: str  # closing token of a message; the last thing an answer is trained to say
    after: str  # after the closing token, never trained
    system: str | None = None  # inserted when the conversation has no system message

    def open_turn(self, role: str) -> str:
        return self.turn.format(role=role.capitalize() if self.capitalize else role)

    def messages(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """The conversation with the format's default system message in front, where it has one."""
        if self.system is None or (messages and messages[0].role == "system"):
            return messages
        return (Message(role="system", content=(self.system,)), *messages)

    def answer(self, text: str, *, closes: bool = True) -> str:
        """What follows an assistant turn's opening: scored, including the closing token.

        >>> SMOLVLM.answer("A cat."), SMOLVLM.answer("B", closes=False)
        (' A cat.<end_of_utterance>', ' B')
        """
        return f"{self.lead}{text}{self.close if closes else ''}"

    def content(self, parts: tuple[Part, ...]) -> Iterator[Part]:
        """A message's content with the lead before it, text in whole strings, pictures in between."""
        if parts and not isinstance(parts[0], Media):
            yield self.lead
        yield from parts


SMOLVLM = ChatFormat(begin="<|im_start|>", turn="{role}:", capitalize=True, lead=" ", close="<end_of_utterance>", after="\n")
CHATML = ChatFormat(
    begin="", turn="<|im_start|>{role}\n", capitalize=False, lead="", close="<|im_end|>", after="\n"
)  # fmt: skip
