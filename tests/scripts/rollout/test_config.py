"""What is typed wrong is told at once, by its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from conf.compose import compose, compose_with_file
from scripts.rollout.__main__ import main
from scripts.rollout.config import RolloutConfig


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("worker=[]",), "policy is None: the name that robots ask for is expected"),
        (("policy=aloha@2",), "policy is 'aloha@2'"),
        (("policy=a", "polcy=b"), "unknown key 'polcy': did you mean 'policy'?"),
        (("policy=a", "version=2@3"), "version is '2@3': a text without @"),
        (("policy=a", "version="), "version is ''"),
        (("policy=a", "stable=b@1"), "stable is 'b@1': a version of a is expected"),
        (("policy=a", "broker=[localhost]"), "broker has 'localhost': HOST:PORT"),
        (("policy=a", "broker=[]"), "broker is empty: at least one HOST:PORT"),
        (("policy=a", "broker=localhost:8000"), "a list is expected, such as [a, b]"),
        (("policy=a", "shares=[0.5]"), "the last of them 1"),
        (("policy=a", "shares=[0.5,0.2,1]"), "growing numbers"),
        (("policy=a", "workers=-1"), "workers is -1"),
        (("policy=a", "ready=0"), "ready is 0: 1 or more"),
        (("policy=a", "bounds.failures=0"), "bounds.failures is 0"),
        (("policy=a", "step_longest_s=0"), "step_longest_s is 0"),
        (("policy=a", "shadow.share=0"), "shadow.share is 0"),
        (("policy=a", "bounds.largest_difference=-1"), "bounds.largest_difference is -1"),
        (("policy=a", "bounds.largest_diff=1"), "did you mean 'bounds.largest_difference'?"),
        (("policy=a", "worker=[name=b]"), "worker has name=b: leave it out"),
        (("--policy", "a"), "did you mean policy=a?"),
    ],
)
def test_mistakes(words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert told in capsys.readouterr().err


def test_help_has_every_key_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    output = capsys.readouterr().out
    assert "largest_difference: null" in output
    assert "3 it broke a bound" in output
    assert main([]) == 2


def test_words_for_workers_are_typed_as_for_workers(tmp_path: Path) -> None:
    words = "worker=[env=aloha_sim, policy={_target_: a.B, x: 1},'default_prompt=lift, then go',b]"
    given = compose("rollout", RolloutConfig, ["policy=a", words]).worker
    assert given == [
        "env=aloha_sim",
        "policy={_target_: a.B, x: 1}",
        "default_prompt=lift, then go",
        "b",
    ]
    file = tmp_path / "rollout.yaml"
    file.write_text("policy: a\nworker: [env=aloha, model=tiny]\nbounds: {failures: 7}\n")
    words_of_file = [f"file={file}", "version=3"]
    config = compose_with_file("rollout", RolloutConfig, words_of_file)
    assert config.worker_words("3") == ["env=aloha", "model=tiny", "name=a", "version=3"]
    assert (config.version, config.bounds.failures) == ("3", 7)
