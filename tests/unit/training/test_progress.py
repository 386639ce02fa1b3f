"""What log and status say of a training."""

from __future__ import annotations

from fovea_api.trainingjob import Training
from fovea_trainer.training.progress import epoch_lines
from fovea_trainer.training.state import State

METRICS = {"train/loss": 0.123456, "validation/accuracy": 0.75}


def test_the_log_gives_the_metrics_of_an_epoch_and_says_whether_it_is_the_best() -> None:
    training = Training.model_validate({"epochs": 6})
    best = State(epoch=3, best_epoch=3, best_value=0.75)
    words = "epoch 3/9 in 12 s: train/loss 0.1235, validation/accuracy 0.75"
    assert list(epoch_lines(best, training, 9, METRICS, 12.3, True)) == [f"{words} (the best so far); checkpoint saved"]
    later = State(epoch=3, best_epoch=2, best_value=0.8)
    assert list(epoch_lines(later, training, 9, METRICS, 12.3, False)) == [words]
    unmeasured = State(epoch=3, best_epoch=3)
    assert list(epoch_lines(unmeasured, training, 9, METRICS, 12.3, False)) == [words]


def test_the_log_says_why_training_ends_early() -> None:
    stopping = {"metric": "validation/accuracy", "patience": 2}
    training = Training.model_validate({"epochs": 6, "earlyStopping": stopping})
    state = State(epoch=3, best_epoch=1, best_value=0.8, stopped=True)
    assert list(epoch_lines(state, training, 9, METRICS, 1, True))[1:] == [
        "training ends early: validation/accuracy got no better for 2 epochs"
    ]
