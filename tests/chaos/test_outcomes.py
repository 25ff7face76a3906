"""Each breach of the promise is counted as what it is."""

from __future__ import annotations

from scripts.local.load import Outcome
from tests.chaos.outcomes import Summary, summarize


def outcome(kind: str = "right", took_s: float = 0.1) -> Outcome:
    return Outcome(0, 100.0, 100.0 + took_s, 1.0, kind)


def count(*outcomes: Outcome, stuck: int = 0, disturbed: bool = False, stall: float = 0) -> Summary:
    return summarize(outcomes, stuck, lambda each: disturbed, lambda start, end: stall)


def test_right_answers_and_typed_errors_are_clean() -> None:
    summary = count(outcome(), outcome("NoWorker"), outcome("NoWorker"))
    assert summary.is_clean
    assert (summary.right, summary.errors) == (1, {"NoWorker": 2})


def test_a_wrong_answer_is_not() -> None:
    summary = count(outcome("wrong"))
    assert (summary.wrong, summary.is_clean) == (1, False)
    assert summary.examples


def test_an_error_without_a_type_is_not() -> None:
    assert (count(outcome("untyped")).untyped, count(outcome("untyped")).is_clean) == (1, False)


def test_silence_is_a_loss_unless_the_way_was_disturbed() -> None:
    assert count(outcome("silence")).lost == 1
    assert count(outcome("silence"), disturbed=True).lost == 0
    assert count(outcome("silence"), disturbed=True).errors == {"silence": 1}


def test_silence_is_a_loss_unless_we_were_stalled_for_longer_than_the_broker_has_in_hand() -> None:
    assert count(outcome("silence"), stall=0.09).lost == 1
    assert count(outcome("silence"), stall=0.11).lost == 0


def test_a_call_that_never_returned_is_a_loss() -> None:
    summary = count(outcome(), stuck=2)
    assert (summary.lost, summary.requests, summary.is_clean) == (2, 3, False)


def test_late_is_what_the_machine_does_not_explain() -> None:
    late = outcome("DeadlineExceeded", took_s=1.3)
    assert count(late).late == 1
    assert count(late, stall=0.25).late == 0
    assert count(outcome("DeadlineExceeded", took_s=1.05)).late == 0
