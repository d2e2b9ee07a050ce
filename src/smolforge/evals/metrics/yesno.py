"""Yes or no: three readings of one answer, which give different scores.

answer                      exact   contained   amber
"Yes"                       yes     yes         yes
"yes."                      ""      yes         ""
"No, there is no dog."      ""      no          ""
"It is not clear."          ""      no          ""
"A dog on a sofa."          ""      yes         ""
"""

from __future__ import annotations

from typing import Literal

Answer = Literal["yes", "no", ""]  # "": cannot be read

NEGATIONS = {"No", "no", "not"}
YES_NO: dict[str, Answer] = {"yes": "yes", "no": "no"}
CAPITAL: dict[str, Answer] = {"Yes": "yes", "No": "no"}


def exact(text: str) -> Answer:
    """lmms-eval's reading of POPE: the whole answer, case and outer spaces apart.

    >>> exact(" YES "), exact("yes.")
    ('yes', '')
    """
    return YES_NO.get(text.lower().strip(), "")


def contained(text: str) -> Answer:
    """POPE's own reading (Li et al. 2023, arXiv 2305.10355, evaluate.py): no where the first sentence has one of the words
    "No", "no" and "not" between spaces, commas apart; everything else is yes, an empty answer too.

    >>> contained("No, there is none."), contained("There is nothing."), contained("Yes. I do not doubt it.")
    ('no', 'yes', 'yes')
    """
    words = text.split(".")[0].replace(",", "").split(" ")
    return "yes" if NEGATIONS.isdisjoint(words) else "no"


def amber(text: str) -> Answer:
    """AMBER's reading (Wang et al. 2023, arXiv 2311.07397, inference.py): "Yes" or "No" and nothing else, spaces included.

    >>> amber("No"), amber("no")
    ('no', '')
    """
    return CAPITAL.get(text, "")
