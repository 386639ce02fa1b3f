"""What a person sees of a sweep by hand: a live table on a terminal, lines elsewhere."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from fovea_trainer.tuning.study import Study
from fovea_trainer.tuning.table import LiveTable, table
from fovea_trainer.tuning.trial import Outcome
from rich.console import Console
from studies import recipe, study


def halfway(folder: Path) -> Study:
    """Three trials: the second is the best, the third at work."""
    made = study(folder, recipe(stopping={"scheduler": "None"}, trials={"max": 4}, budget={"wallClock": "1h"}), 3)
    for value in (0.25, 0.75):
        job = made.next()
        assert job is not None
        metrics = {"validation/accuracy": value}
        made.done(job, Outcome([metrics] * 9, 9, metrics, True, seconds=1.0))
    made.next()
    return made


def console(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=120, height=10, color_system=None)


def text(of: Console) -> str:
    assert isinstance(of.file, io.StringIO)
    return of.file.getvalue()


def test_the_table_has_what_is_at_work_then_the_best(tmp_path: Path) -> None:
    paper = console(terminal=False)
    paper.print(table(halfway(tmp_path), most=9))
    heading, *rows = (line.split() for line in text(paper).splitlines())
    assert heading == ["TRIAL", "STATE", "EPOCHS", "validation/accuracy", "VALUES"]
    assert [row[:2] for row in rows] == [["t-3", "Running"], ["t-2", "*"], ["t-1", "Succeeded"]]
    assert rows[1][2:5] == ["Succeeded", "9/9", "0.75"]
    assert all(row[-1].startswith("learningRate=") for row in rows)


def test_a_terminal_shows_as_many_trials_as_it_has_room_for_and_the_sum(tmp_path: Path) -> None:
    made, terminal = halfway(tmp_path), console(terminal=True)
    with LiveTable(terminal) as reporter:
        reporter.trials(made)
        reporter.report(made.progress())
    shown = text(terminal)
    assert "t-3" in shown
    assert "t-2 *" in shown
    assert "t-1" not in shown
    assert "and 1 more" in shown
    assert "1 running, 0 paused, 2 done" in shown
    assert "best t-2: validation/accuracy 0.75" in " ".join(shown.split())
    assert "budget 0 %" in shown


def test_elsewhere_there_is_a_line_at_each_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = halfway(tmp_path)
    with LiveTable(console(terminal=False)) as reporter:
        for _ in range(3):
            reporter.trials(made)
            reporter.report(made.progress())
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "2 done" in lines[0]
