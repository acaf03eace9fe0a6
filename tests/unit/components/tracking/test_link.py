"""The delivery queue keeps its order over failures, sends rows together and says what is left."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from components.contract.api import Row
from components.tracking.link import DeliveryQueue, Link, ServerAway, ServerRefused


@pytest.fixture
def link() -> Link:
    return Link("memory")


def away() -> None:
    raise ServerAway("no answer")


def test_a_refusal_is_told_at_once_and_once(link: Link, caplog: pytest.LogCaptureFixture) -> None:
    queue = DeliveryQueue(link)

    def refused() -> None:
        raise ServerRefused("403:\n Forbidden " + "x" * 300)

    for number in range(3):
        queue.add(str(number), refused)
        queue.deliver_next()
        (record,) = caplog.records
        assert "MLflow at memory refuses what it is sent (403: Forbidden x" in record.getMessage()
        assert len(record.getMessage()) < 300
    assert len(link.refused) == 3


def test_the_order_is_kept_over_failures_and_a_refusal_holds_nothing_up(link: Link) -> None:
    queue, done = DeliveryQueue(link, retry_s=0.01), list[str]()
    failures: Iterator[Exception] = iter([ServerAway("1"), ServerAway("2"), ServerRefused("wrong")])

    def first() -> None:
        for failure in failures:
            raise failure

    queue.start()
    queue.add("first", first)
    queue.add("broken", lambda: done.append(str(1 // 0)))
    queue.add("second", lambda: done.append("second"))
    assert queue.close(10.0) == []
    assert done == ["second"]
    assert link.refused == ["wrong"]


def test_waiting_ends_when_the_server_is_away_and_closing_says_what_is_left(link: Link) -> None:
    queue = DeliveryQueue(link, retry_s=0.01)
    queue.start()
    queue.add("third", away)
    queue.add("fourth", lambda: None)
    assert not queue.wait(10.0)
    assert queue.close(0.05) == ["third", "fourth"]


def test_rows_that_wait_together_are_sent_together_and_never_past_an_act(link: Link) -> None:
    queue, sent = DeliveryQueue(link), list[object]()
    rows = [Row(step, 0, {"loss": 1.0}) for step in range(120)]

    def send(batch: list[Row]) -> None:
        sent.append(len(batch))

    queue.add_rows("figures", rows, send, queue)
    queue.add("act", lambda: sent.append("act"))
    queue.add_rows("figures", rows[:2], send, queue)
    while queue.deliver_next():
        pass
    assert sent == [50, 50, 20, "act", 2]


def test_what_is_withdrawn_is_not_delivered_and_the_rest_is(link: Link) -> None:
    queue, done = DeliveryQueue(link), list[str]()
    queue.add("mine", lambda: done.append("mine"), source="me")
    queue.add("other", lambda: done.append("other"))
    queue.add_rows("figures", [Row(0, 0, {}), Row(1, 0, {})], lambda rows: done.append("rows"), "me")
    assert queue.withdraw("me") == 3
    while queue.deliver_next():
        pass
    assert done == ["other"]


def test_where_tracking_is_off_nothing_is_kept() -> None:
    queue = DeliveryQueue(Link(""))
    queue.start()
    queue.add("act", away)
    assert queue.wait(10.0)
    assert queue.close(10.0) == []
