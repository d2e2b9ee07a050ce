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
from smolforge.report.page import page, save
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
        UserError: a folder holds no run, or a damaged file.
    """
    if not folders:
        raise UserError("no run", mend="give the folder of a run")
    runs = [read_run(folder) for folder in folders]
    if len(runs) == 1:
        return save(out or folders[0] / "report.html", page(runs[0].name, run_sections(runs[0])))
    return save(out or Path("report.html"), page(f"{len(runs)} runs", runs_page(runs)))
