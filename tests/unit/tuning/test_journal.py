"""What the death of a process, or its living on for a while, leaves of a study."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fovea_api.errors import CorruptData, Interrupted
from fovea_trainer.tuning.errors import TakenOver
from fovea_trainer.tuning.journal import Phase
from fovea_trainer.tuning.trial import Job, Outcome
from studies import recipe, study

LONG = recipe(stopping={"scheduler": "None"}, budget={"wallClock": "1h"})


def ended(value: float) -> Outcome:
    return Outcome([{"validation/accuracy": value}] * 9, 9, {"validation/accuracy": value}, True, seconds=1.0)


def test_what_an_earlier_process_still_writes_replaces_nothing(tmp_path: Path) -> None:
    """The pod of an attempt lives on while the next one works: its trial has ended there, here it is at work."""
    old = study(tmp_path, LONG)
    jobs = [old.next(), old.next()]
    assert all(isinstance(job, Job) for job in jobs)
    first, second = (job for job in jobs if job is not None)
    old.done(first, ended(0.3))
    new = study(tmp_path, LONG)
    again = new.next()
    assert again is not None
    assert again.number == second.number
    new.done(again, ended(0.5))
    with pytest.raises(TakenOver, match="another process has taken the sweep over"):
        old.done(second, ended(0.4))
    with pytest.raises(TakenOver):
        old.abandoned(second)
    old._kept -= 40
    with pytest.raises(Interrupted):  # also where no trial of it ends
        old.tick()
    third = study(tmp_path, LONG)
    assert [each.phase for each in third.entries] == [Phase.SUCCEEDED, Phase.SUCCEEDED]
    assert third.entries[1].artefact == {"validation/accuracy": 0.5}


def test_a_death_at_any_moment_takes_back_nothing_that_was_reported(tmp_path: Path) -> None:
    percent = 0
    for count in range(1, 7):
        made = study(tmp_path, LONG)
        job = made.next()
        assert job is not None
        made._ticked -= 40
        made.done(job, ended(0.5))
        made._ticked -= 20  # less than between two writes of the clock
        assert made.next() is not None
        reported, after = made.progress().sweep, study(tmp_path, LONG).progress().sweep
        assert reported is not None
        assert after is not None
        assert reported.trials.ended == after.trials.ended == count
        assert reported.usage == after.usage
        assert (reported.budget_percent or 0) == (after.budget_percent or 0) >= percent
        percent = reported.budget_percent or 0
    assert percent >= 6, "an hour, of which 6 times 40 s are spent"


@pytest.mark.parametrize("content", ["", json.dumps({"number": "one"})])
def test_a_trial_that_cannot_be_read_is_named(tmp_path: Path, content: str) -> None:
    made = study(tmp_path, LONG)
    for _ in range(2):
        made.next()
    file = tmp_path / "trials" / "t-1" / "trial.json"
    file.write_text(content)
    with pytest.raises(CorruptData, match=r"t-1/trial\.json: the trial cannot be read"):
        study(tmp_path, LONG)
    file.unlink()
    with pytest.raises(CorruptData, match="trial t-1 is missing"):
        study(tmp_path, LONG)
