"""What a person reads after the work: self-contained HTML pages made from files. They read results only and run nothing.

write_report       one run, or several side by side
write_comparison   two evaluations against each other, what got worse first
comparison_lines   the same for the terminal
table              scores for the terminal
"""

from __future__ import annotations

from pathlib import Path

from smolforge.errors import UserError
from smolforge.report.comparison import compare_folders, comparison_lines, write_comparison
from smolforge.report.page import claim_page, page, save
from smolforge.report.run import read_run, run_sections
from smolforge.report.runs import runs_page
from smolforge.report.tables import table

__all__ = ["compare_folders", "comparison_lines", "table", "write_comparison", "write_report"]


def write_report(*folders: Path, out: Path | None = None) -> Path:
    """One page from the files of one run or of several.

    Args:
        folders: of the runs.
        out: the page; report.html, in the run's folder, or for several runs in the current one, when left out.

    Raises:
        UserError: a folder holds no run, or a damaged file; or the page cannot be written, which is seen before they are read.
    """
    if not folders:
        raise UserError("no run", mend="give the folder of a run")
    place = out or (folders[0] if len(folders) == 1 else Path()) / "report.html"
    if out or place.parent.is_dir():  # a misspelt folder is not made
        claim_page(place)
    runs = [read_run(folder) for folder in folders]
    made = page(runs[0].name, run_sections(runs[0])) if len(runs) == 1 else page(f"{len(runs)} runs", runs_page(runs))
    return save(place, made)
