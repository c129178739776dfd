"""The scheduler is first come, first served and leaves no slot idle, with cancellations and shared prefixes."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from glm4v_core.engines.transformers.prefixes import NO_PREFIX, Identity, Prefix, common_prefix
from glm4v_core.engines.transformers.scheduler import PREFILL_TOKENS, SHARED_TOKENS, Move, Scheduler


class Asked:
    """A request with its prompt tokens and the number of steps that it runs after prefill."""

    def __init__(self, *identity: int, steps: int = 1, ready: bool = True) -> None:
        self.identity: Identity = np.array(identity, dtype=np.int64)
        self.steps = steps
        self.ready = ready
        self.prefix = NO_PREFIX


def never(identity: Identity) -> Prefix:
    return NO_PREFIX


def line_of(requests: Sequence[Asked], *, slots: int, reuses: bool = True) -> Scheduler[Asked]:
    scheduler: Scheduler[Asked] = Scheduler(slots, never, reuses=reuses)
    for request in requests:
        scheduler.submit(request)
    return scheduler


def unlike(count: int, length: int = 10) -> list[Asked]:
    return [Asked(*[1000 + index] * length) for index in range(count)]


def test_importing_it_loads_no_torch() -> None:
    code = "import sys, glm4v_core.engines.transformers.scheduler; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in run.stdout.split()}
    assert "glm4v_core" in loaded
    assert loaded.isdisjoint({"torch", "transformers"})


def test_free_slots_go_to_the_head_of_the_line() -> None:
    requests = unlike(5)
    scheduler = line_of(requests, slots=3)
    assert scheduler.admit() == requests[:3]
    scheduler.start(requests[:3])
    assert scheduler.admit() == []
    assert scheduler.leave(requests[1]) == Move(requests[2], 2, 1)
    assert scheduler.running == [requests[0], requests[2]]
    assert scheduler.admit() == requests[3:4]


def test_a_request_that_is_not_ready_is_passed_by_those_behind_it() -> None:
    first, slow, last = unlike(3)
    slow.ready = False
    scheduler = line_of([first, slow, last], slots=3)
    assert scheduler.admit() == [first, last]
    scheduler.start([first, last])
    assert scheduler.admit() == []
    slow.ready = True
    assert scheduler.admit() == [slow]


def test_a_request_that_is_not_ready_is_admitted_when_nothing_else_can_run() -> None:
    slow, slower = unlike(2)
    slow.ready = slower.ready = False
    scheduler = line_of([slow, slower], slots=2)
    assert scheduler.admit() == [slow]
    scheduler.start([slow])
    assert scheduler.admit() == []


@pytest.mark.parametrize(
    ("lengths", "groups"),
    [
        ([10, 20, 10], [3]),
        ([10, 10, 100], [2, 1]),
        ([PREFILL_TOKENS // 2] * 3, [2, 1]),
        ([PREFILL_TOKENS * 2, 10], [1, 1]),
    ],
    ids=["alike", "mostly padding", "many tokens", "one long"],
)
def test_prompts_are_prefilled_together_while_that_is_efficient(lengths: list[int], groups: list[int]) -> None:
    requests = [Asked(*[1000 + index] * length) for index, length in enumerate(lengths)]
    scheduler = line_of(requests, slots=8)
    sizes = []
    while group := scheduler.admit():
        scheduler.start(group)
        sizes.append(len(group))
    assert sizes == groups
    assert scheduler.running == requests


@pytest.mark.parametrize(("reuses", "expected"), [(True, 1), (False, 2)])
def test_a_prompt_waits_for_the_prefix_that_it_can_reuse(reuses: bool, expected: int) -> None:
    shared = range(SHARED_TOKENS)
    scheduler = line_of([Asked(*shared, 1, 2), Asked(*shared, 3)], slots=4, reuses=reuses)
    assert len(scheduler.admit()) == expected


def test_a_prompt_cancelled_during_prefill_takes_no_row() -> None:
    requests = unlike(3)
    scheduler = line_of(requests, slots=3)
    group = scheduler.admit()
    assert scheduler.leave(group[0]) is None
    scheduler.start(group[1:])
    assert scheduler.running == requests[1:]
    assert scheduler.leave(requests[0]) is None
    assert scheduler.requests == requests[1:]


class House:
    """Runs a scheduler as the worker does, step by step, with random arrivals, and checks each decision."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.slots = self.chance.randint(1, 16)
        self.kept: list[Identity] = []
        self.look_ups = 0
        self.scheduler: Scheduler[Asked] = Scheduler(self.slots, self.find, reuses=True)
        self.line: list[Asked] = []
        self.rows: list[Asked] = []
        self.ended: Counter[Asked] = Counter()
        self.prefixes = [[self.chance.randint(1, 9)] * self.chance.randint(0, 150) for _ in range(5)]

    def find(self, identity: Identity) -> Prefix:
        self.look_ups += 1
        shared = max((common_prefix(identity, kept) for kept in self.kept), default=0)
        return Prefix(min(shared, len(identity) - 1))

    def arrive(self, number: int) -> None:
        beginning = self.chance.choice(self.prefixes)
        tokens = [number + 10] * self.chance.choice([1, 5, 40, 400, 3000])
        request = Asked(*beginning, *tokens, steps=self.chance.randint(1, 20), ready=self.chance.random() < 0.7)
        self.line.append(request)
        self.scheduler.submit(request)

    def end(self, request: Asked) -> None:
        self.ended[request] += 1
        move = self.scheduler.leave(request)
        if request in self.line:
            self.line.remove(request)
        if request in self.rows:
            assert (move is None) == (self.rows[-1] is request)
        if move is not None:
            assert self.rows[move.source] is move.request
            self.rows[move.target] = move.request
        if request in self.rows[-1:] or move is not None:
            self.rows.pop()
        assert self.rows == list(self.scheduler.running)
        assert self.scheduler.leave(request) is None

    def turn(self) -> None:
        for request in self.scheduler.upcoming():
            request.ready = request.ready or self.chance.random() < 0.5
        free, upcoming = self.slots - len(self.rows), list(self.scheduler.upcoming())
        assert upcoming == self.line[: 2 * self.slots]
        readable = [request for request in upcoming if request.ready] or ([] if self.rows else upcoming[:1])
        before = self.look_ups
        group = self.scheduler.admit()
        assert self.look_ups - before <= len(group) + 1  # one for each that is read, and one for the first that is not
        # First come, first served among the ready; and no slot idles while one of them waits.
        assert group == readable[: len(group)]
        assert len(group) <= free
        assert bool(group) == bool(free and readable)
        self.line = [request for request in self.line if request not in group]
        for request in group:
            if self.chance.random() < 0.02:
                self.end(request)
        started = [request for request in group if not self.ended[request]]
        self.scheduler.start(started)
        self.rows += started
        self.kept = [*self.kept, *(request.identity for request in started)][-20:]
        for request in list(self.rows):
            request.steps -= 1
            if not request.steps:
                self.end(request)

    def cancel_one(self) -> None:
        requests = self.scheduler.requests
        if requests:
            self.end(self.chance.choice(requests))


@pytest.mark.parametrize("seed", range(10))
def test_a_thousand_random_requests_are_served_in_order_and_end_once(seed: int) -> None:
    house = House(seed)
    submitted = turns = 0
    while submitted < 1000 or not house.scheduler.idle:
        for _ in range(house.chance.choice([0, 0, 1, 5])):
            if submitted < 1000:
                house.arrive(submitted)
                submitted += 1
        if house.chance.random() < 0.05:
            house.cancel_one()
        house.turn()
        turns += 1
        # At most 20 steps per request, one after the other, and a few turns until pixels are ready.
        assert turns < 1000 * 30
    assert len(house.ended) == 1000
    assert set(house.ended.values()) == {1}
    assert house.scheduler.requests == []
