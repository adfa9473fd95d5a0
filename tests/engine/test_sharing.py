"""Sweeps divide the room among them, and one whose board is slow to answer keeps its part."""

from __future__ import annotations

import random
import time

import pytest
import ray

from pipeline.engine import cluster
from pipeline.engine.sharing import ANSWER, SILENT, Boards


@pytest.mark.parametrize("seed", range(20))
def test_two_sweeps_never_take_more_than_the_room_though_their_boards_fall_silent(seed):
    chance, boards = random.Random(seed), {"one": Boards(), "other": Boards()}
    silent = dict.fromkeys([(asks, name) for asks in boards for name in boards], 0)
    for _ in range(200):
        room, parts = chance.randrange(2, 20), 0
        for asks, counted in boards.items():
            answers = {}
            for name in boards:
                heard = chance.random() < 0.1 or silent[asks, name] == SILENT
                silent[asks, name] = 0 if heard else silent[asks, name] + 1
                answers[name] = 1 if heard else None
            parts += room // counted.heard(answers)
        assert parts <= room


def test_what_stays_silent_holds_its_part_for_so_many_askings_and_no_longer():
    boards, silence = Boards(), {"own": 1, "other": None}
    assert boards.heard({"own": 1, "other": 2}) == 3
    assert [boards.heard(silence) for _ in range(SILENT + 2)] == [3] * SILENT + [1] * 2
    assert boards.heard({"own": 1, "other": 2}) == 3, "it was only slow"
    assert boards.heard({"own": 1}) == 1, "what is listed no more is gone at once"
    assert boards.heard({"own": 1, "other": 0}) == 1, "a run that sweeps nothing takes no part"


@pytest.mark.ray
@pytest.mark.slow
def test_a_board_that_is_busy_counts_for_what_it_said_last(one_ray):
    @ray.remote(num_cpus=0)
    class Busy:
        def sweeps(self):
            return 2

        def work(self, seconds):
            time.sleep(seconds)

    board = Busy.options(name="busy", namespace=cluster.BOARDS).remote()
    boards = Boards()
    until = time.monotonic() + 150
    while boards.count() != 2 and time.monotonic() < until:
        time.sleep(0.05)
    working = board.work.remote(10 * ANSWER)
    assert boards.count() == 2
    assert boards.last["busy"] == (2, 1), "it answered, so that nothing was shown"
    ray.cancel(working)
    ray.kill(board)  # pyright: ignore[reportArgumentType]
    until = time.monotonic() + 150
    while boards.count() and time.monotonic() < until:
        time.sleep(0.05)
    assert boards.count() == 0
