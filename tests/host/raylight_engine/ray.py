"""Ray's actors, as far as raylight's nodes use them: processes that do one thing after another."""

from __future__ import annotations

import multiprocessing
from typing import Any

import cloudpickle

from . import worker


class Actor:
    def __init__(self, rank: int, ranks: int, meet: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self.process = context.Process(target=worker.main, args=(theirs, rank, ranks, meet), daemon=True)
        self.process.start()
        theirs.close()
        self._answers: list[Any] = []

    def __getattr__(self, name: str) -> Method:
        if name.startswith("_"):
            raise AttributeError(name)
        return Method(self, name)

    def told(self, message: tuple) -> Reference:
        self._pipe.send_bytes(cloudpickle.dumps(message))
        self._answers.append(None)
        return Reference(self, len(self._answers) - 1)

    def answer(self, number: int) -> Any:
        while (found := self._answers[number]) is None:
            place = self._answers.index(None)
            self._answers[place] = cloudpickle.loads(self._pipe.recv_bytes())
        return found


class Method:
    def __init__(self, actor: Actor, name: str) -> None:
        self.actor, self.name = actor, name

    def remote(self, *args: Any, **kwargs: Any) -> Reference:
        return self.actor.told((self.name, args, kwargs))


class Reference:
    def __init__(self, actor: Actor, number: int) -> None:
        self.actor, self.number = actor, number


def get(what: Any) -> Any:
    if isinstance(what, list):
        return [get(one) for one in what]
    result, error = what.actor.answer(what.number)
    if error is not None:
        raise error
    return result
