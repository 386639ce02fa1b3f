"""Which trials go on: against what the papers' algorithms do by hand."""

from __future__ import annotations

import dataclasses
import json
import shutil
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fovea_api.errors import InvalidInput
from fovea_api.run import Progress
from fovea_api.sweep import TrialState
from fovea_trainer.tuning.errors import BudgetTooSmall, NoTrialWithinLimits, TooManyTrialsFailed
from fovea_trainer.tuning.journal import Entry, Phase
from fovea_trainer.tuning.manifest import describe
from fovea_trainer.tuning.scheduling import MedianStopping, Population, SuccessiveHalving, misses
from fovea_trainer.tuning.trial import InProcess, Job, Outcome
from studies import RATE, carry_out, entry, outcome, recipe, study

STOPPING = {"scheduler": "ASHA", "graceEpochs": 1, "reductionFactor": 3}
LATENCY = {"metric": "latency/p95Milliseconds", "goal": "Minimize", "limit": 60}
ACCURACY = {"metric": "validation/accuracy", "goal": "Maximize"}


def test_asha_promotes_as_the_paper_does() -> None:
    """Algorithm 2 of Li et al. (2020) by hand, with a reduction factor of 3: of each three the best one goes on."""
    halving = SuccessiveHalving(recipe(stopping=STOPPING))
    bottom = [entry(1, 0.1), entry(2, 0.5)]
    assert halving.decide(bottom, complete=False).go_on is None, "a third of two is none"
    bottom.append(entry(3, 0.3))
    go_on = halving.decide(bottom, complete=False).go_on
    assert go_on is not None
    assert (go_on.entry.number, go_on.until) == (2, 3)
    running = [bottom[0], bottom[1].model_copy(update={"phase": Phase.RUNNING}), bottom[2]]
    assert halving.decide(running, complete=False).go_on is None, "the one place is taken"
    six = [*running, entry(4, 0.2), entry(5, 0.6), entry(6, 0.4)]
    go_on = halving.decide(six, complete=False).go_on
    assert go_on is not None
    assert go_on.entry.number == 5
    higher = [entry(number, 0.5, 0.5, 0.5 + number / 100) for number in (7, 8, 9)]
    go_on = halving.decide([*six, *higher], complete=False).go_on
    assert go_on is not None
    assert (go_on.entry.number, go_on.until) == (9, 9), "the highest rung comes first"


def rising(values: object, epoch: int) -> dict[str, float]:
    """The higher the rate, the better; more epochs are better."""
    rate = float(values[RATE["path"]])  # type: ignore[index]
    return {"validation/accuracy": rate - 0.01 / epoch}


STEPS = {"path": RATE["path"], "choice": [0.01, 0.02, 0.03, 0.04, 0.05]}
WAYS: dict[str, dict[str, Any]] = {
    "ASHA": {"stopping": STOPPING},
    "Hyperband": {"stopping": STOPPING | {"scheduler": "Hyperband"}},
    "median": {"stopping": STOPPING | {"scheduler": "MedianStopping"}},
    "no stopping": {"stopping": {"scheduler": "None"}},
    "population": {"stopping": STOPPING, "search": {"algorithm": "PopulationBased"}},
    "grid": {"search": {"algorithm": "Grid"}, "parameters": [STEPS], "stopping": STOPPING},
}


@pytest.mark.parametrize("way", WAYS)
def test_what_is_said_to_wait_is_what_begins(way: str, tmp_path: Path) -> None:
    """By it Ray is asked for workers, and those that it does not count may leave."""
    made = study(tmp_path, recipe(trials={"max": 11}, **WAYS[way]), parallel=4)
    jobs: list[Job] = []
    seen = set()
    while True:
        said = made.waiting(4 - len(jobs))
        before = [*made.entries]
        begun = [job for _ in range(4 - len(jobs)) if (job := made.next()) is not None]
        assert len(begun) == said, f"{len(jobs)} at work of {before}"
        seen.add(said)
        jobs += begun
        if not jobs:
            break
        job = jobs.pop(len(made.entries) % len(jobs))
        ended = outcome(made, job, rising, 9)
        write_weights(tmp_path, made.entries[job.number - 1], len(ended.curve), job)
        made.done(job, ended)
    assert {0, 1, 4} <= seen
    assert made.waiting(4) == 0


@pytest.mark.parametrize("at_once", [1, 3])
def test_asha_trains_few_to_the_end_among_them_the_best(tmp_path: Path, at_once: int) -> None:
    made = study(tmp_path, recipe(stopping=STOPPING, search={"algorithm": "Random"}, trials={"max": 27}), at_once)
    carry_out(made, rising, 9, at_once)
    best = max(made.entries, key=lambda each: each.values[RATE["path"]])
    assert made.best() == best
    assert best.phase is Phase.SUCCEEDED
    lengths = Counter(each.epochs for each in made.entries)
    assert lengths[9] in range(1, 7)
    assert lengths[1] >= 15
    assert made.summary().trials.stopped_early + made.summary().trials.succeeded == 27
    assert not any((tmp_path / "trials" / each.name / "checkpoint").exists() for each in made.entries)


def test_a_short_sweep_trains_one_trial_to_the_end_all_the_same(tmp_path: Path) -> None:
    made = study(tmp_path, recipe(stopping=STOPPING, search={"algorithm": "Random"}, trials={"max": 2}))
    carry_out(made, rising, 9)
    assert sorted(each.epochs for each in made.entries) == [1, 9]


def test_hyperband_starts_at_several_rungs(tmp_path: Path) -> None:
    given = recipe(stopping=STOPPING | {"scheduler": "Hyperband"}, search={"algorithm": "Random"}, trials={"max": 26})
    made = study(tmp_path, given)
    log = carry_out(made, rising, 9)
    first = dict(reversed(log))
    assert Counter(first[each.name] for each in made.entries) == {1: 14, 3: 7, 9: 5}  # 9, 5 and 3 of each 17


def test_the_median_ends_what_is_worse() -> None:
    median = MedianStopping(recipe(stopping={"scheduler": "MedianStopping", "graceEpochs": 2}))
    others = [entry(number, value, value, phase=Phase.SUCCEEDED) for number, value in enumerate((0.4, 0.5, 0.6), 1)]
    bad, good = entry(4, 0.3, 0.45), entry(4, 0.3, 0.55)
    decision = median.decide([*others, bad], complete=True)
    assert [each.number for each, _ in decision.stop] == [4]
    assert "0.45 after 2 epochs, the median of 3 others 0.5" in decision.stop[0][1]
    decision = median.decide([*others, good], complete=True)
    assert decision.go_on is not None
    assert decision.go_on.until == 4
    assert not median.decide([*others[:2], bad], complete=True).stop, "two others are too few"


def test_a_value_that_is_no_number_is_the_worst_for_the_median() -> None:
    stopping = {"scheduler": "MedianStopping", "graceEpochs": 2}
    others = [entry(number, value, value) for number, value in enumerate((0.4, 0.5, 0.6, 0.7), 1)]
    empty = entry(5).model_copy(update={"curve": ({}, {})})
    once = entry(5, 0.65, 0.65).model_copy(update={"curve": ({}, {"validation/accuracy": 0.65})})
    median = MedianStopping(recipe(stopping=stopping))
    ((stopped, reason),) = median.decide([*_ended(others), empty], complete=True).stop
    assert (stopped.number, "accuracy has no value after 2 epochs" in reason) == (5, True)
    assert not median.decide([*_ended(others), once], complete=True).stop, "one epoch of two"
    assert not median.decide([others[0], *_ended([*others[1:3], empty, once])], complete=True).stop
    both = MedianStopping(recipe(stopping=stopping, objectives=[ACCURACY, LATENCY]))
    timed = [each.model_copy(update={"artefact": {LATENCY["metric"]: 50.0}}) for each in (*others, empty)]
    ((stopped, reason),) = both.decide([*_ended(timed[:4]), timed[4]], complete=True).stop
    assert (stopped.number, reason) == (5, "in the worse half of 5 trials after 2 epochs")


def _ended(entries: Sequence[Entry]) -> list[Entry]:
    return [each.model_copy(update={"phase": Phase.SUCCEEDED}) for each in entries]


def test_a_limit_that_cannot_be_kept_ends_a_trial() -> None:
    given = recipe(objectives=[ACCURACY, LATENCY, {"metric": "size/megabytes", "goal": "Minimize", "limit": 4}])

    def measured(**artefact: float) -> Entry:
        return Entry(number=1, artefact={name.replace("_", "/"): value for name, value in artefact.items()})

    assert misses(given, measured(latency_p95Milliseconds=67)) == "latency/p95Milliseconds is 67, its limit 60"
    assert misses(given, measured(latency_p95Milliseconds=65)) == "", "the next measurement may keep it"
    assert misses(given, measured(size_megabytes=4.1)) == "size/megabytes is 4.1, its limit 4"
    smaller = measured(size_megabytes=4.1).model_copy(update={"recipe": {"compression": {"quantization": {}}}})
    assert misses(given, smaller) == "", "8-bit integers make it smaller"
    pruned = measured(size_megabytes=4.1).model_copy(update={"recipe": {"compression": {"pruning": {"sparsity": 0.3}}}})
    assert misses(given, pruned) == "", "it is pruned after it is trained"


def test_with_several_objectives_the_front_goes_on() -> None:
    objectives = [ACCURACY, {"metric": "size/megabytes", "goal": "Minimize"}]
    halving = SuccessiveHalving(recipe(stopping=STOPPING, objectives=objectives))
    places = [(0.9, 9.0), (0.8, 9.5), (0.7, 3.0), (0.6, 4.0), (0.5, 8.0), (0.4, 6.0)]
    entries = [
        entry(number, accuracy).model_copy(update={"artefact": {"size/megabytes": size}})
        for number, (accuracy, size) in enumerate(places, 1)
    ]
    promoted = []
    for _ in range(2):
        go_on = halving.decide(entries, complete=False).go_on
        assert go_on is not None
        promoted.append(go_on.entry.number)
        entries[go_on.entry.number - 1] = go_on.entry.model_copy(update={"phase": Phase.RUNNING})
    assert promoted == [1, 3]


MOASHA = json.loads(Path(__file__).with_name("moasha.json").read_text())["cases"]


@pytest.mark.parametrize("case", MOASHA, ids=lambda case: "{}x{}".format(*np.shape(case["losses"])))
@pytest.mark.parametrize("factor", [2, 3])
def test_with_several_objectives_trials_go_on_by_the_fronts_of_moasha(case: dict[str, Any], factor: int) -> None:
    """Of a rung, as many as ASHA lets go on, front by front; the table is what Syne Tune's own code says."""
    objectives = [ACCURACY, {"metric": "size/megabytes", "goal": "Minimize"}]
    objectives += [{"metric": "complexity/gigaMacs", "goal": "Minimize"}]
    names = [str(each["metric"]) for each in objectives[: np.shape(case["losses"])[1]]]
    halving = SuccessiveHalving(
        recipe(stopping=STOPPING | {"reductionFactor": factor}, objectives=objectives[: len(names)])
    )
    entries = [
        entry(number, -losses[0]).model_copy(update={"artefact": dict(zip(names[1:], losses[1:], strict=True))})
        for number, losses in enumerate(case["losses"], 1)
    ]
    promoted = []
    while (go_on := halving.decide(entries, complete=False).go_on) is not None:
        promoted.append(go_on.entry.number)
        entries[go_on.entry.number - 1] = go_on.entry.model_copy(update={"phase": Phase.RUNNING})
    front = {index + 1: rank for rank, front in enumerate(case["fronts"]) for index in front}
    assert len(promoted) == len(entries) // factor
    assert [front[number] for number in promoted] == sorted(front.values())[: len(promoted)]


def test_a_population_hands_the_best_weights_on() -> None:
    search = {"algorithm": "PopulationBased"}
    population = Population(recipe(search=search, stopping={"graceEpochs": 2, "reductionFactor": 3}, trials={"max": 6}))
    entries = [
        entry(number, 0.0, number / 10).model_copy(update={"keyed": {RATE["path"]: number / 1000}})
        for number in range(1, 7)
    ]
    assert population.decide(entries[:5], complete=False).go_on is None, "the others are made first"
    exploiting = {}
    while (decision := population.decide(entries, complete=True)).go_on is not None:
        go_on = decision.go_on
        assert go_on.until == 4
        if go_on.source:
            assert go_on.keyed is not None
            assert not any(each.phase is Phase.RUNNING and not each.source for each in entries), "the worst go first"
            exploiting[go_on.entry.number] = go_on.source
        curve = entries[(go_on.source or go_on.entry.number) - 1].curve
        reached = go_on.entry.curve[-1]
        update = {"phase": Phase.RUNNING, "until": 4, "source": go_on.source, "curve": curve, "reached": reached}
        entries[go_on.entry.number - 1] = go_on.entry.model_copy(update=update)
    assert set(exploiting) == {1, 2}
    assert set(exploiting.values()) <= {5, 6}
    assert decision.wait


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_population_replaces_the_worst_of_each_generation_alone(tmp_path: Path, at_once: int) -> None:
    """Trials that have taken another's curve, gone on or ended do not change who is the worst and who the best."""
    given = recipe(
        search={"algorithm": "PopulationBased"}, stopping={"graceEpochs": 2, "reductionFactor": 3}, trials={"max": 6}
    )
    made = study(tmp_path, given, at_once)
    jobs: list[Job] = []
    replaced = []
    ended = 0
    while True:
        before = {each.number: each for each in made.entries}
        kept = {each.number: weights(tmp_path, each) for each in made.entries if each.phase is Phase.PAUSED}
        if len(jobs) < at_once and (job := made.next()) is not None:
            jobs.append(job)
            now, was = made.entries[job.number - 1], before.get(job.number)
            if was is not None and now.keyed != was.keyed:
                replaced.append(now.epochs)
                assert before[now.source].phase is Phase.PAUSED
                assert now.source != ended
                assert weights(tmp_path, now) == kept[now.source] != kept[now.number]
                assert kept[now.source][0] == f"{now.epochs:06}-{0:08}"
            continue
        if not jobs:
            break
        job = jobs.pop(0)
        now = made.entries[job.number - 1]
        more = [rising(now.values, epoch) for epoch in range(now.epochs + 1, min(job.until, 7) + 1)]
        curve = [*now.curve, *more]
        if job.until == 4 and not ended:  # early stopping
            ended = job.number
        write_weights(tmp_path, now, len(curve), job)
        over = ended == job.number or len(curve) == 7
        made.done(job, Outcome(curve, 7, {"validation/accuracy": 1.0} if over else {}, over))
    assert Counter(replaced) == {2: 2, 4: 1, 6: 1}, "of three trials one: of 6, of 5, and of 5"
    assert made.counts().succeeded == 6


def weights(folder: Path, of: Entry) -> tuple[str, str]:
    """The checkpoint of a trial: its position, and what it has learned."""
    (kept,) = (folder / "trials" / of.name / "checkpoint").glob("*/state.pt")
    return kept.parent.name, kept.read_text()


def write_weights(folder: Path, of: Entry, epochs: int, job: Job) -> None:
    kept = folder / "trials" / of.name / "checkpoint"
    shutil.rmtree(kept, ignore_errors=True)
    position = kept / f"{epochs:06}-{0:08}"
    position.mkdir(parents=True)
    (position / "state.pt").write_text(f"{job.name} up to {job.until}")


# --- Ends ----------------------------------------------------------------------------------------------------


def test_failures_beyond_what_is_allowed_end_the_sweep(tmp_path: Path) -> None:
    made = study(tmp_path, recipe(trials={"max": 8, "maxFailed": 2}))
    for _ in range(3):
        job = made.next()
        assert job is not None
        made.done(job, Outcome(error="out of memory", seconds=1.0))
    with pytest.raises(TooManyTrialsFailed, match=r"3 of 3 .* most of them so: out of memory \(3 of them\)"):
        made.next()
    assert made.ended == "TooManyFailed"


def test_some_failures_are_none_of_the_others(tmp_path: Path) -> None:
    made = study(tmp_path, recipe(stopping={"scheduler": "None"}, trials={"max": 4, "maxFailed": 2}))
    while (job := made.next()) is not None:
        failed = job.number in (1, 3)
        metrics = {"validation/accuracy": job.number / 10}
        ended = Outcome([metrics] * 9, 9, metrics, True, seconds=1.0)
        made.done(job, Outcome(error="no", seconds=1.0) if failed else ended)
    made.finish()
    best = made.best()
    assert best is not None
    assert (best.name, made.counts().failed, made.why_nothing()) == ("t-4", 2, None)


def test_a_budget_that_is_spent_ends_the_sweep_with_what_it_has(tmp_path: Path) -> None:
    given = recipe(stopping={"scheduler": "None"}, trials={"max": 50}, budget={"cpuHours": 0.01})
    made = study(tmp_path, given)
    job = made.next()
    assert job is not None
    assert job.deadline is not None
    assert 0 < job.deadline - time.time() <= 36, "a hundredth of an hour on one core, from now on"
    metrics = {"validation/accuracy": 0.5}
    made.done(job, Outcome([metrics] * 9, 9, metrics, True, seconds=1.0))
    made._ticked -= 40  # the time that the second trial takes
    job = made.next()
    assert job is not None
    made._ticked -= 40
    made.done(job, Outcome([metrics] * 2, 9, cut=True, seconds=40.0))
    assert made.next() is None
    made.finish()
    assert made.ended == "BudgetSpent"
    assert made.why_nothing() is None
    counts = made.summary().trials
    assert (counts.succeeded, counts.stopped_early, counts.running, counts.paused) == (1, 1, 0, 0)
    trial = describe(made).trials[1]
    assert (trial.state, trial.reason) == (TrialState.STOPPED_EARLY, "the budget was spent")
    again = study(tmp_path, given)
    assert again.next() is None, "what was spent before a restart counts"


def test_a_larger_budget_goes_on_with_the_trials_that_there_are(tmp_path: Path) -> None:
    made = study(tmp_path, recipe(budget={"wallClock": "1m"}, stopping=STOPPING))
    cut, paused = made.next(), made.next()
    assert cut is not None
    assert paused is not None
    for job, epochs in ((cut, 0), (paused, 1)):
        write_weights(tmp_path, made.entries[job.number - 1], epochs, job)
        made.done(job, Outcome([{"validation/accuracy": 0.5}] * epochs, 9, cut=not epochs, seconds=1.0))
    made._ticked -= 61
    assert made.next() is None
    made.finish()
    again = study(tmp_path, recipe(budget={"wallClock": "1h"}, stopping=STOPPING))
    assert [each.phase for each in again.entries] == [Phase.RUNNING, Phase.PAUSED]
    assert [weights(tmp_path, each)[0] for each in again.entries] == [f"{0:06}-{0:08}", f"{1:06}-{0:08}"]
    following = again.next()
    assert following is not None
    assert (following.number, following.until) == (1, 1)


def test_a_sweep_that_has_not_ended_is_not_finished(tmp_path: Path) -> None:
    made = study(tmp_path, recipe())
    assert made.next() is not None
    with pytest.raises(RuntimeError, match="has not ended"):
        made.finish()


def test_a_budget_too_small_for_one_trial_says_so(tmp_path: Path) -> None:
    made = study(tmp_path, recipe(budget={"wallClock": "1m"}))
    job = made.next()
    assert job is not None
    made._ticked -= 61
    made.done(job, Outcome([{"validation/accuracy": 0.5}], 9, cut=True, seconds=61.0))
    assert made.next() is None
    made.finish()
    assert isinstance(made.why_nothing(), BudgetTooSmall)


def test_no_trial_within_the_limits_names_the_nearest(tmp_path: Path) -> None:
    made = study(tmp_path, recipe(stopping={"scheduler": "None"}, objectives=[ACCURACY, LATENCY], trials={"max": 3}))
    while (job := made.next()) is not None:
        metrics = {"validation/accuracy": 0.9, "latency/p95Milliseconds": 70.0 + job.number}
        made.done(job, Outcome([metrics] * 9, 9, metrics, True, seconds=1.0))
    made.finish()
    error = made.why_nothing()
    assert isinstance(error, NoTrialWithinLimits)
    assert "the nearest is t-1: accuracy 0.9" not in str(error)
    assert "the nearest is t-1" in str(error)


def test_a_space_in_which_nothing_can_be_trained_is_named(tmp_path: Path) -> None:
    losses = {"path": "training.loss", "choice": ["GIoU", "SmoothL1"]}
    with pytest.raises(InvalidInput, match="none can be trained"):
        study(tmp_path, recipe(parameters=[losses])).next()


# --- Restarts ------------------------------------------------------------------------------------------------


def test_a_restart_at_any_moment_changes_nothing(tmp_path: Path) -> None:
    """Each job is begun by a process that dies before its end, and once more by the next one."""
    given = recipe(stopping=STOPPING, search={"algorithm": "TPE"}, trials={"max": 14})
    steady = study(tmp_path / "steady", given)
    expected = carry_out(steady, rising, 9)
    log = []
    while True:
        doomed = study(tmp_path / "shaky", given)
        before = doomed.next()
        if before is None:
            break
        made = study(tmp_path / "shaky", given)
        job = made.next()
        assert job is not None
        assert (job.number, job.until) == (before.number, before.until)
        log.append((job.name, job.until))
        made.done(job, outcome(made, job, rising, 9))
    assert log == expected
    assert [each.values for each in made.entries] == [each.values for each in steady.entries]


def test_a_trial_that_gets_further_each_time_is_not_given_up(tmp_path: Path) -> None:
    for attempt in range(1, 8):
        made = study(tmp_path, recipe())
        job = made.next()
        assert job is not None
        assert job.number == 1
        write_weights(tmp_path, made.entries[0], attempt, job)
    assert [study(tmp_path, recipe()).next().number for _ in range(4)] == [1, 1, 1, 2]  # type: ignore[union-attr]


def test_the_time_of_an_interrupted_trial_counts(tmp_path: Path) -> None:
    made = study(tmp_path, recipe())
    job = made.next()
    assert job is not None
    made._ticked -= 20
    made.abandoned(job)
    clock = study(tmp_path, recipe())._clock
    assert clock.seconds >= 20
    assert clock.usage.cpu_hours >= 20 / 3600


def test_the_clock_goes_on_and_the_deadline_holds_while_a_trial_works(tmp_path: Path) -> None:
    made = study(tmp_path, recipe(budget={"wallClock": "1h"}))
    job = made.next()
    assert job is not None
    context = InProcess(job, threading.Event(), made.tick)
    made._ticked, made._kept = made._ticked - 40, made._kept - 40
    context.report_progress(Progress())
    assert study(tmp_path, recipe())._clock.seconds >= 40, "kept, though no trial has paused"
    assert not context.stopping()
    late = InProcess(dataclasses.replace(job, deadline=time.time() - 1), threading.Event(), made.tick)
    assert late.stopping(), "it has waited for a worker until the budget was spent"


def test_a_trial_that_kills_its_process_is_given_up(tmp_path: Path) -> None:
    given = recipe(trials={"max": 5})
    numbers = []
    for _ in range(4):
        job = study(tmp_path, given).next()
        assert job is not None
        numbers.append(job.number)
    assert numbers == [1, 1, 1, 2]
    assert study(tmp_path, given).entries[0].phase is Phase.FAILED
