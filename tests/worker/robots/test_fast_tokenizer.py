"""pi0-FAST's tokenizers: agreement with the public system, answers that are none, foreign files."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.golden import FAST_TOKENIZER, TOKENIZER, decodings
from worker.errors import CheckpointError
from worker.robots.fast_tokenizer import ActionTokenizer, FastTokenizer
from worker.robots.tokenizers import PI0_FAST, PromptTokenizer, Tokens

STATE = np.array([-2.0, 0.0, 0.5])
# In the small text vocabulary: the last action token, one that is none, and one beyond the BPE's.
LAST, SEGMENT, BEYOND = 1111, 1112, 650
BEGIN_TOKENS = 4


@pytest.fixture(scope="module")
def tokenizer() -> FastTokenizer:
    text = PromptTokenizer(TOKENIZER, 250, PI0_FAST)
    return FastTokenizer(text, ActionTokenizer(FAST_TOKENIZER), 10, 8)


def written(index: int = 0) -> Tokens:
    """A good answer, without what follows its end."""
    ids = np.trim_zeros(decodings()[index][0]).astype(np.int64)
    assert ids[-1] == 1
    return ids


def assert_same_chunk(tokenizer: FastTokenizer, ids: Tokens) -> None:
    one, other = tokenizer.chunk(ids), tokenizer.chunk(written())
    assert one is not None
    assert other is not None
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("index", range(4))
def test_tokens_become_the_public_systems_actions(tokenizer: FastTokenizer, index: int) -> None:
    ids, expected = decodings()[index]
    actions = tokenizer.chunk(ids)
    if index == 3:
        # It is cut off; the public system answers zeros, which look like actions.
        assert actions is None
        assert not expected.any()
        return
    assert actions is not None
    assert actions.dtype == np.float64
    np.testing.assert_allclose(actions, expected, atol=1e-12, rtol=0)


def test_a_token_beyond_the_action_vocabulary_is_skipped(tokenizer: FastTokenizer) -> None:
    more = np.insert(written(), BEGIN_TOKENS + 3, BEYOND)
    assert_same_chunk(tokenizer, more)


@pytest.mark.parametrize(
    "ids",
    [
        written()[BEGIN_TOKENS:],
        np.insert(written(), BEGIN_TOKENS + 3, SEGMENT),
        np.insert(written(), BEGIN_TOKENS + 3, LAST),
        np.delete(written(), BEGIN_TOKENS + 3),
        np.zeros(256, np.int64),
        np.array([], np.int64),
    ],
    ids=["no beginning", "negative", "too long", "too short", "nothing", "empty"],
)
def test_what_is_no_chunk_gives_no_actions(tokenizer: FastTokenizer, ids: Tokens) -> None:
    assert tokenizer.chunk(ids) is None


def test_only_what_stands_between_beginning_and_bar_counts(tokenizer: FastTokenizer) -> None:
    bar = int(np.flatnonzero(written() == 129)[0])
    noisy = np.concatenate([[300, 301], written()[: bar + 1], written()[5:9]])
    assert_same_chunk(tokenizer, noisy)


def test_an_answer_that_is_not_finite_is_never_actions(tokenizer: FastTokenizer) -> None:
    actions = tokenizer.chunk(np.array([264, -1, 0]))
    assert actions is not None
    assert np.isnan(actions).all()


def test_a_prompt_is_lowered_and_holds_the_state(tokenizer: FastTokenizer) -> None:
    text = tokenizer.text
    ids = text.encode("  Fold_THE towel \n", STATE).tokens
    assert ids[0] == 2
    assert text.decode(ids) == "Task: fold the towel, State: -1 128 192;\n"


def test_newlines_inside_a_prompt_stay(tokenizer: FastTokenizer) -> None:
    assert tokenizer.text.decode(tokenizer.text.encode("a\nb", STATE).tokens).startswith(
        "Task: a\nb, "
    )


def test_a_prompt_without_a_state_is_a_mistake(tokenizer: FastTokenizer) -> None:
    with pytest.raises(ValueError, match="state"):
        tokenizer.text.encode("fold")


def copied(folder: Path) -> Path:
    return Path(shutil.copytree(FAST_TOKENIZER, folder / "fast"))


def processor(**changes: object) -> str:
    return json.dumps({"scale": 10, "min_token": -32, "vocab_size": 384, **changes})


@pytest.mark.parametrize("name", ["tokenizer.json", "processor_config.json"])
def test_a_folder_without_its_files_names_them(tmp_path: Path, name: str) -> None:
    folder = copied(tmp_path)
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} cannot be read.*fast_tokenizer=DIR"):
        ActionTokenizer(folder)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("tokenizer.json", "{", "is no tokenizer"),
        ("tokenizer.json", '{"version": "1.0"}', "is no tokenizer"),
        ("tokenizer.json", "\udcff", "it is no text"),
        ("processor_config.json", "[]", "no usable scale"),
        ("processor_config.json", "{}", "no usable scale"),
        ("processor_config.json", processor(scale="ten"), "no usable scale"),
        ("processor_config.json", processor(scale=0), "has scale 0.0"),
        ("processor_config.json", processor(scale=float("nan")), "has scale nan"),
        ("processor_config.json", processor(min_token=10**400), "has scale 10.0 and min_token"),
        ("processor_config.json", processor(vocab_size=100), "384 tokens, .* allows 100"),
    ],
)
def test_a_damaged_or_foreign_folder_is_named(
    tmp_path: Path, name: str, content: str, says: str
) -> None:
    folder = copied(tmp_path)
    (folder / name).write_text(content, errors="surrogateescape")
    with pytest.raises(CheckpointError, match=f"{says}.*fast_tokenizer=DIR"):
        ActionTokenizer(folder)


def test_more_action_tokens_than_the_text_has_room_for(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"].update({f"a{i}": 384 + i for i in range(1000)})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "processor_config.json").write_text(processor(vocab_size=1384))
    with pytest.raises(CheckpointError, match=r"1384 action tokens, .*1112 .*tokenizer="):
        FastTokenizer(PromptTokenizer(TOKENIZER, 9, PI0_FAST), ActionTokenizer(folder), 10, 8)
