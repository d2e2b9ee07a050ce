"""Whole pages from folders written by hand: runs with and without evaluation, several runs, two evaluations compared."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from smolforge.errors import DataError, UserError
from smolforge.report import compare_folders, comparison_lines, write_comparison, write_report
from smolforge.report.evaluation import known_measures, measured, regressions, score_tables, spread, stages
from smolforge.report.page import VOID

WRONG = {  # every object is false
    "0": "a green circle at the left",
    "1": "a red square at the left",
    "2": "a blue star at the right",
    "3": "a yellow diamond at the top",
}
RIGHT = {
    "0": "a red circle at the top and a blue star in the middle",
    "1": "a green square at the left",
    "2": "a pink star at the right",
    "3": "a yellow diamond at the bottom",
}


class Balanced(HTMLParser):
    """Fails on an element that is not closed in its place."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def whole(file: Path) -> str:
    """The page's text, if it is well-formed, and asks nothing of the network."""
    page = file.read_text(encoding="utf-8")
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert not re.search(r"<script|<link|<iframe|src=\"(?!data:)|href=\"(?!#)|url\(", page)
    return page


def words(page: str) -> str:
    """Without markup."""
    return " ".join(re.sub(r"<[^>]*>", " ", page).split())


# --- one run ---------------------------------------------------------------------------------------------------------


def test_a_run_without_evaluation_tells_its_loss_and_claims_nothing_of_answers(write_run, tmp_path):
    file = write_report(write_run(tmp_path / "run"))
    assert file == tmp_path / "run" / "report.html"
    page = whole(file)
    assert "Loss on held-out examples: 2.5000 → 1.2500 (lower; one number, without an interval)." in words(page)
    for absent in ("<h2>Scores", "Pictures with", "Worst regressions", "<h2>Chosen preferred"):
        assert absent not in page
    for told in ("org/tiny", "supervised fine-tuning", "scenes (test[:9])", "all weights", "2 steps of 16 examples",
                 "preparing 3 s", "1.00 GiB", "8.0 examples/s", "torch 2.13", "# &lt;kept&gt;"):  # fmt: skip
        assert told in words(page), told
    assert 'aria-label="rewards by step"' in page
    assert "energy" not in words(page)


def test_what_was_trained_on_what(write_run, tmp_path):
    folder = write_run(
        tmp_path / "run",
        adapters={"r": 4, "on": ["text", "vision"]},
        objective={"kind": "dpo", "loss": {"sigmoid": 0.8, "bco_pair": 0.2}},
        data=[{"source": "a", "weight": 2}, {"source": "b", "name": "c", "split": "train[:5%]", "weight": 1}],
        eval={},
    )
    told = words(whole(write_report(folder)))
    for part in ("loss 0.8 sigmoid + 0.2 bco_pair, beta 0.1", "adapters only: lora (r 4, alpha 16) on text, vision",
                 "a (train, weight 2); b / c (train[:5%], weight 1)", "measured on training examples"):  # fmt: skip
        assert part in told, part


def test_configurations_and_homes_of_a_source_are_told(write_run, tmp_path):
    many = [f"{seconds}_s_academic" for seconds in (30, 60, 90, 120)]
    entries = [{"source": "video", "name": many}, {"source": "me/two", "dir": "A"}, {"source": "me/two", "revision": "v2"}]
    entries += [{"source": "pets", "dir": "P"}]
    held = [{"source": "me/two", "split": "test"}, {"source": "several", "name": ["vqa", "captions"], "weight": 2}]
    told = words(whole(write_report(write_run(tmp_path / "run", data=entries, eval={"data": held}))))
    listed = ("video / 30_s_academic,60_s_academic and 2 more (train)", "me/two (train, dir A)", "me/two (train, revision v2)")
    for between in (", ", "; "):  # the head, and what was trained on what
        assert between.join((*listed, "pets (train)")) in told
    assert "me/two (test, no dir or revision); several / vqa,captions (train, weight 2)" in told


def test_a_run_that_goes_on_and_energy(write_run, tmp_path):
    folder = write_run(tmp_path / "run", finished=False)
    assert "not finished yet" in whole(write_report(folder))
    write_run(folder)
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | {"energy_wh": 12.34}))
    assert "energy 12.3 Wh" in words(whole(write_report(folder)))


def test_samples_of_a_run_are_escaped(write_run, tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "samples").mkdir()
    sample = {
        "id": "1",
        "prompt": "<i>?",
        "pictures": [],
        "references": ["no", "yes"],
        "kinds": ["chosen", "rejected"],
        "tokens": 1,
    }
    for when, text in (("before", "<script>x</script>"), ("after", "no")):
        (folder / "samples" / f"{when}.jsonl").write_text(json.dumps(sample | {"answer": text}) + "\n")
    page = whole(write_report(folder))
    assert "&lt;script&gt;x&lt;/script&gt;" in page
    assert '<dt>after</dt><dd class="good">no</dd>' in page
    assert '<dt>rejected</dt><dd class="bad">yes</dd>' in page


def test_folders_that_hold_no_run(write_run, tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        write_report(tmp_path)
    with pytest.raises(UserError, match="is a folder"):
        write_report(write_run(tmp_path / "run"), out=tmp_path)
    (tmp_path / "run" / "summary.json").write_text('{"bef')
    with pytest.raises(DataError, match="not valid JSON"):
        write_report(tmp_path / "run")


# --- evaluations of a run --------------------------------------------------------------------------------------------


def test_stages_in_order(write_run, write_results, tmp_path):
    folder = write_run(tmp_path / "run")
    for name in ("after", "zeta", "dpo", "alpha", "sft", "before"):
        write_results(folder / "evaluation" / name, {"1": RIGHT["1"]})
    (folder / "evaluation" / "broken").mkdir()
    (folder / "stages.json").write_text(json.dumps({"before": "x", "SFT": "y", "DPO": "z"}))
    assert [stage.name for stage in stages(folder)] == ["before", "SFT", "DPO", "alpha", "zeta", "after"]


def test_a_score_table_by_hand(write_run, write_results, tmp_path):
    """Four scenes with five objects. Before: all false, 4 objects named. After: the first two right, the others as before, so
    that 3 of 5 objects are there and 2 of 5 named ones are not. Ten times over, so that the intervals are narrow: exact rises
    by 50 points, about +-16, and hallucination falls by 60.
    """
    folder = write_run(tmp_path / "run")
    write_results(folder / "evaluation" / "before", WRONG, times=10)
    write_results(folder / "evaluation" / "after", RIGHT | {"2": WRONG["2"], "3": WRONG["3"]}, times=10)
    page = whole(write_report(folder))
    rows = [
        re.findall(r"<td.*?>(.*?)</td>", row)
        for row in re.findall(r"<tr>(.*?)</tr>", page)
        if ">exact<" in row or "hallucination<" in row
    ]
    exact = next(words(" ".join(row)) for row in rows if row[0].startswith("exact"))
    assert re.match(
        r"exact captions .* higher is better 0.0% \[0.0, 0.0\] 50.0% \[3\d.\d, 6\d.\d\] \+50.0 \[\+3\d.\d, \+6\d.\d\]$", exact
    )
    wrong = next(words(" ".join(row)) for row in rows if row[0].startswith("hallucination"))
    assert re.match(r"hallucination objects .* 100.0% \[100.0, 100.0\] 40.0% \[.*\] -60.0 \[-\d\d.\d, -\d\d.\d\]$", wrong)
    assert '<span class="good">-60.0</span>' in page
    assert "<span>0.00</span>" in page, "the length stayed and has no colour"
    assert page.index(">recall<") < page.index(">hallucination<") < page.index(">objects a caption<")
    assert "before → after: Of 3 scores, 3 are better, none is worse." in words(page)
    assert "hallucination 100.0% → 40.0% (better, -60.0 [" in words(page)
    assert "8 of 40 questions, evenly spread" in words(page)
    assert page.count("data:image/png;base64,") == 8, "pictures of what is shown, and no others"
    assert "No answer got worse." in page
    assert "By exact, of these 40 questions 20 are answered better, 0 worse and 20 as well as before." in words(page)
    assert '<mark class="bad">a blue star at the right</mark>' in page
    assert '<mark class="right">a green square at the left</mark>' in page


def test_no_difference_is_called_no_difference(write_run, write_results, tmp_path):
    """One answer of four became right: its interval holds 0."""
    folder = write_run(tmp_path / "run")
    write_results(folder / "evaluation" / "before", WRONG)
    write_results(folder / "evaluation" / "after", WRONG | {"1": RIGHT["1"]})
    page = whole(write_report(folder))
    told = words(page)
    assert "exact 0.0% → 25.0% (+25.0 [0.0, +75.0])" in told
    assert "no difference that these 4 questions can show" in told
    assert "Of 3 scores, none is better, none is worse, 3 show no difference." in told
    assert 'class="good"' not in page.split("<h2>Pictures", 1)[0]
    assert "Few questions (4)" in told


def test_regressions_worst_first(write_run, write_results, tmp_path):
    """Of twelve that lost, the eight that lost most; those that won are only counted."""
    folder = write_run(tmp_path / "run")
    write_results(folder / "evaluation" / "dpo", WRONG, times=5)
    write_results(folder / "evaluation" / "sft", RIGHT, times=5)
    (task,) = measured(stages(folder), known_measures())
    assert [stage.name for stage in task.stages] == ["dpo", "sft"], "by name, where nothing tells their order"
    gains = [*(-1 + n / 20 for n in range(12)), 0.0, *[1.0] * 7]
    pairs = [replace(pair, gain=gain) for pair, gain in zip(task.compared.pairs, gains, strict=True)]
    page = regressions([replace(task, compared=replace(task.compared, pairs=pairs))])
    assert "By exact, of these 20 questions 7 are answered better, 12 worse and 1 as well as before." in page
    assert re.findall(r"worse by (\d+) points of exact", page) == ["100", "95", "90", "85", "80", "75", "70", "65"]


def test_stages_that_share_no_question_stand_beside_each_other(write_run, write_results, tmp_path):
    folder = write_run(tmp_path / "run")
    write_results(
        folder / "evaluation" / "before", {"1": RIGHT["1"]}, questions=5, skipped={"damaged picture": 2}, named=["row 7: <bad>"]
    )
    write_results(folder / "evaluation" / "after", {"2": RIGHT["2"]}, notes=["by exact words"])
    page = whole(write_report(folder))
    told = words(page)
    assert "cannot be compared question by question: no question of scenes.lmms-eval in common" in told
    assert "before: 5; after: 1" in told
    assert "before: 2 damaged picture; after: none" in told
    assert "row 7: &lt;bad&gt;" in page
    assert "by exact words" in told
    assert "difference" not in page.split("<h2>Scores</h2>")[1].split("<h2>")[0].split("In brackets")[0]


def test_one_stage_alone_is_not_a_comparison(write_run, write_results, tmp_path):
    folder = write_run(tmp_path / "run")
    write_results(folder / "evaluation" / "after", RIGHT)
    told = words(whole(write_report(folder)))
    assert "exact 100.0% [100.0, 100.0]" in told
    assert "measured at one stage only, after" in told
    assert "Pictures with answers" in told
    assert "Worst regressions" not in told


def test_scores_that_cannot_be_said(write_run, write_results, tmp_path):
    """Nothing named: no share of it is hallucinated."""
    folder = write_run(tmp_path / "run")
    write_results(folder / "evaluation" / "before", dict.fromkeys(RIGHT, ""), times=10)
    write_results(folder / "evaluation" / "after", RIGHT, times=10)
    table = score_tables(measured(stages(folder), known_measures()))
    row = next(row for row in re.findall(r"<tr>(.*?)</tr>", table) if ">hallucination<" in row)
    assert re.sub(r"<small.*?</small>", "", row).endswith("<td>–</td><td>0.0%</td><td>–</td>")


def test_an_unknown_benchmark_is_told(write_run, write_results, tmp_path):
    folder = write_run(tmp_path / "run")
    for name in ("before", "after"):
        write_results(folder / "evaluation" / name, RIGHT, name="riddles")
    assert "results of an unknown benchmark, riddles" in whole(write_report(folder))
    with pytest.raises(DataError, match="unknown benchmark, riddles"):
        compare_folders(folder / "evaluation" / "before", folder / "evaluation" / "after")


def test_spread():
    assert spread(0) == []
    assert spread(9, 8) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert spread(1000, 8) == [0, 125, 250, 375, 500, 625, 750, 875]


# --- several runs ----------------------------------------------------------------------------------------------------


def test_several_runs_side_by_side(write_run, write_results, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, two = write_run(tmp_path / "a" / "run"), write_run(tmp_path / "b" / "run", finished=False)
    write_results(one / "evaluation" / "before", WRONG)
    write_results(one / "evaluation" / "after", RIGHT)
    file = write_report(one, two)
    assert file == Path("report.html")
    page = whole(file)
    table = page[: page.index("</table>")]
    assert f'<a href="#run-1">{one}</a>' in table, "two runs of one name are told apart by their place"
    assert "<td>loss after</td><td>1.2500</td><td>–</td>" in table
    assert re.search(r"exact.*?<td>100.0%<small class=\"dim\">\[100.0, 100.0\]</small></td><td>–</td>", table)
    assert page.count('<section class="run"') == 2
    assert page.count("<h2>Settings</h2>") == 2
    assert write_report(one, two, out=tmp_path / "new" / "page.html").is_file()
    assert not (one / "report.html").exists()


# --- two evaluations -------------------------------------------------------------------------------------------------


@pytest.fixture
def two(write_results, tmp_path) -> tuple[Path, Path]:
    """Forty questions; the scenes 0 and 1 get worse, 2 better, 3 stays."""
    before = write_results(tmp_path / "old", RIGHT | {"2": WRONG["2"]}, times=10, model="<old>")
    after = write_results(tmp_path / "new", WRONG | {"2": RIGHT["2"], "3": RIGHT["3"]}, times=10, model="new")
    return before, after


def test_a_comparison_shows_what_got_worse_first(two, tmp_path):
    page = whole(write_comparison(*two, tmp_path / "page.html"))
    told = words(page)
    assert "&lt;old&gt; (" in page
    assert "Of 3 scores, none is better, 2 are worse, 1 shows no difference." in told
    assert "Worse, the worst first 20 of 20" in told
    assert "Better, the best first 10 of 10" in told
    assert page.index("Worse, the worst first") < page.index("Better, the best first")
    assert "no difference that these 40 questions can show" in told
    assert page.count('class="card pair"') == 30
    cards = page.split('class="card pair"')[1:]
    assert all("worse by 100 points of exact" in card for card in cards[:20])
    assert all("better by 100 points of exact" in card for card in cards[20:])
    first = cards[0]
    assert (
        first.index("<dt>before</dt>")
        < first.index('<mark class="right">')
        < first.index("<dt>after</dt>")
        < first.index('<mark class="bad">')
    )


def test_better_answers_come_best_first(two, tmp_path):
    ((key, one),) = compare_folders(*two).items()
    pairs = [replace(pair, gain=gain) for pair, gain in zip(one.pairs, (-0.5, -0.25, 0.0, 0.25, 0.5))]
    page = write_comparison(*two, tmp_path / "page.html", compared={key: replace(one, pairs=pairs)}).read_text()
    assert re.findall(r"(\w+) by (\d+) points of", page) == [("worse", "50"), ("worse", "25"), ("better", "50"), ("better", "25")]


def test_a_comparison_is_not_endless(write_results, tmp_path):
    before, after = write_results(tmp_path / "a", RIGHT, times=30), write_results(tmp_path / "b", WRONG, times=30, model="other")
    page = whole(write_comparison(before, after, tmp_path / "page.html", compared=compare_folders(before, after)))
    assert "Worse, the worst first 40 of 120" in words(page)
    assert page.count('class="card pair"') == page.count("data:image/png;base64,") == 40


def test_one_model_against_itself(write_results, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before, after = write_results(tmp_path / "a", RIGHT), write_results(tmp_path / "b", RIGHT)
    file = write_comparison(before, after)
    assert file == Path("comparison.html")
    assert "Both folders measured the same weights." in whole(file)
    assert "No answer got worse." in whole(file)


def test_folders_without_results(tmp_path):
    with pytest.raises(DataError, match="no results there"):
        write_comparison(tmp_path / "a", tmp_path / "b")


def test_lines_for_the_terminal(two):
    lines = comparison_lines(compare_folders(*two))
    assert lines[0] == "scenes.lmms-eval, questions: 40"
    header, exact = lines[1], next(line for line in lines if line.startswith("  exact "))
    assert exact.index("75.0% [") == header.index("before")
    assert exact.index("50.0% [") == header.index("after")
    assert exact.index("-25.0 [") == header.index("difference")
    assert exact.endswith("no difference")
    assert next(line for line in lines if line.startswith("  recall ")).endswith("worse")
    assert "  By exact, of these 40 questions 10 are answered better, 20 worse and 10 as well as before." in lines
    worst = lines[-5:]
    assert all(line.startswith("    ") and "worse by 100 points of exact: a " in line and " -> a " in line for line in worst)
    assert len(lines) == 1 + 1 + 5 + 1 + 5


def test_lines_hold_nothing_that_moves_a_cursor(write_results, tmp_path):
    before = write_results(tmp_path / "a", RIGHT, times=9)
    after = write_results(
        tmp_path / "b", dict.fromkeys(RIGHT, "\x1b[2J\x1b]0;x\x07 red\ncircle\u202e " + "y" * 500), times=9, model="b"
    )
    lines = comparison_lines(compare_folders(before, after))
    assert all(line.isprintable() for line in lines)
    assert any("[2J ]0;x red circle" in line for line in lines)
    assert max(map(len, lines)) < 260
