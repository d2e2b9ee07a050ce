"""The command line: a thin layer over the library's verbs. Imports nothing heavy before a verb is chosen.

Exit codes: 0 done, 1 something the user can mend, 2 wrong usage.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

from smolforge.cli.parser import build_parser
from smolforge.cli.settings import parse
from smolforge.errors import UserError

__all__ = ["build_parser", "main", "parse"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; errors a user can mend become one line on standard error."""
    options = parse(build_parser(), arguments)
    try:
        return options.run(options)
    except (UserError, OSError, KeyboardInterrupt) as error:
        if options.debug:
            raise
        kept = "; the answers so far are kept, the same command goes on" if options.run.__name__ == "evaluate" else ""
        print(f"smolforge: {_one_line(error)}{kept if isinstance(error, KeyboardInterrupt) else ''}", file=sys.stderr)
        return 1
    except RuntimeError as error:  # PyTorch's out-of-memory errors
        if options.debug or not re.search("out of memory|not enough memory|can't allocate memory", str(error)):
            raise
        mend = {"train": "halve batch.row_tokens, or set run.gradient_checkpointing: true"}.get(
            options.run.__name__, "use --dtype bfloat16, or close other programs"
        )
        print(f"smolforge: out of memory; {mend}", file=sys.stderr)
        return 1


def _one_line(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, OSError):
        return " ".join(f"{error.filename or 'system'}: {error.strerror or error}".split())
    return str(error)
