"""What of a row's text is compared."""

from __future__ import annotations

from smolforge.records import Record


def whole(record: Record) -> str:
    """Prompt and all answers."""
    return "\n".join((record.words, *(response.text for response in record.responses)))


def answers(record: Record) -> str:
    """What the assistant says, in earlier turns too; an instruction that thousands of rows share is no part of it."""
    turns = (message for message in record.messages if message.role == "assistant")
    said = [part for message in turns for part in message.content if isinstance(part, str)]
    return "\n".join((*said, *(response.text for response in record.responses)))


def asked_and_answered(record: Record) -> list[str]:
    """The prompt with each answer; the prompt alone where there is none."""
    return [f"{record.words}\n{response.text}" for response in record.responses] or [record.words]
