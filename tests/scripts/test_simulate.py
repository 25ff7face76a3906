"""`python -m scripts.simulate` says what went wrong, and how it ended by its exit code."""

from __future__ import annotations

import pytest

from broker.fleet import Fleet
from scripts import simulate
from tests.simulation.violation import Violation
from tests.simulation.world import Outcome, World


def test_clean_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate.main(["--seeds", "5", "--start", "40"]) == simulate.CLEAN
    printed = capsys.readouterr().out
    assert "5 seeds are clean" in printed
    assert "result" in printed


def test_a_failure_is_printed_as_a_test_that_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Fleet, "_clear", lambda self, worker: None)
    assert simulate.main(["--seeds", "100"]) == simulate.VIOLATED
    printed = capsys.readouterr().out
    assert "invariant 5" in printed
    source = printed[printed.index("from tests.") : printed.index("    World(schedule).play()\n")]
    names: dict[str, object] = {}
    exec(source + "    World(schedule).play()\n", names)
    (test,) = (each for name, each in names.items() if name.startswith("test_seed_"))
    assert callable(test)
    with pytest.raises(Violation, match="invariant 5"):
        test()


def test_an_interrupt_ends_it_with_a_count(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    played: list[int] = []

    def play(self: World) -> Outcome:
        played.append(self.schedule.seed)
        if len(played) == 3:
            raise KeyboardInterrupt
        return original(self)

    original = World.play
    monkeypatch.setattr(World, "play", play)
    assert simulate.main(["--seeds", "10"]) == simulate.INTERRUPTED
    assert "2 seeds were clean" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [["--seeds", "0"], ["--start", "-1"], ["--seeds", "many"]])
def test_wrong_options_end_with_2(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        simulate.main(wrong)
    assert raised.value.code == 2
