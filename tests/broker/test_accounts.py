"""Nobody takes everything, and what is given back is free again."""

from __future__ import annotations

import pytest

from broker.accounts import Accounts
from broker.config import Limits

LIMITS = Limits(
    max_requests=4, max_total_bytes=100, max_requests_per_robot=2, max_bytes_per_robot=60
)


def test_a_robot_has_its_share() -> None:
    accounts = Accounts(LIMITS)
    assert not accounts.refusal("arm", 1, 60)
    accounts.take("arm", 50)
    assert "50 bytes of yours" in accounts.refusal("arm", 1, 11)
    accounts.take("arm", 10)
    assert "limits.max_requests_per_robot" in accounts.refusal("arm", 1, 0)
    assert not accounts.refusal("other", 1, 40)


def test_all_together_have_a_limit() -> None:
    accounts = Accounts(LIMITS)
    for name in ("a", "b", "c"):
        accounts.take(name, 30)
    assert "limits.max_total_bytes" in accounts.refusal("d", 1, 11)
    accounts.take("d", 10)
    assert "limits.max_requests" in accounts.refusal("e", 1, 0)


def test_what_takes_the_place_of_another_is_none_more() -> None:
    accounts = Accounts(LIMITS)
    for name in ("a", "a", "b", "b"):
        accounts.take(name, 25)
    assert not accounts.refusal("a", 0, 0)
    assert not accounts.refusal("a", 0, -25)
    assert "limits.max_total_bytes" in accounts.refusal("a", 0, 1)


@pytest.mark.parametrize("sizes", [[10], [10, 20], [0]])
def test_what_is_given_back_leaves_nothing_behind(sizes: list[int]) -> None:
    accounts = Accounts(LIMITS)
    for size in sizes:
        accounts.take("arm", size)
    for size in sizes:
        accounts.give_back("arm", size)
    assert (accounts.total.requests, accounts.total.bytes) == (0, 0)
    assert not accounts.robots
