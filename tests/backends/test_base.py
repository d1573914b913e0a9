import asyncio
from typing import Any, cast

from smt_plugin.backends.base import Backend, Reply, Request, first_usable


class Saying:
    """A backend that says these texts, one after the other."""

    def __init__(self, *texts: str) -> None:
        self._texts = list(texts)
        self.asked: list[Request] = []

    async def complete(self, request: Request) -> Reply:
        self.asked.append(request)
        return Reply(self._texts.pop(0), "stop", 0, 0, 0)


def ask(backend: Saying) -> tuple[bool | None, str]:
    verdicts: dict[str, bool] = {"yes": True, "no": False}
    options: dict[str, Any] = {"top_p": 0.9}
    return asyncio.run(first_usable(cast(Backend, backend), [], options, "judge", verdicts.get))


def test_the_first_reply_that_can_be_used_ends_the_asking_even_where_it_says_no() -> None:
    backend = Saying("well", "no", "yes")
    assert ask(backend) == (False, "no")
    assert [request.sampling for request in backend.asked] == [
        {"temperature": 0.0, "max_tokens": 1024, "top_p": 0.9},
        {"temperature": 0.7, "max_tokens": 1024, "top_p": 0.9},
    ]
    assert [request.sample for request in backend.asked] == [0, 1]


def test_after_three_replies_that_cannot_be_used_the_last_one_is_returned() -> None:
    assert ask(Saying("a", "b", "c", "yes")) == (None, "c")
