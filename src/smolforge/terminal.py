"""Texts of strangers on a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """A text that cannot command the terminal, as long as it was.

    >>> printable("a\\x1b[2Jb")
    'a�[2Jb'
    """
    return "".join(letter if letter.isprintable() or letter == "\n" else "\t" if letter == "\t" else "�" for letter in text)
