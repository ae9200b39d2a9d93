"""The engine by itself: order, packing, lanes, counting, and programs of every kind."""

import numpy as np
import torch

from diffzero.scoring.engine import Jobs, Outcome, Results, Subject, run


def subject(i):
    return Subject(torch.full((2,), float(i)), i)


def asked_for(n, rounds=1, lane=0):
    """A program that asks for n rows in each of so many rounds, and sums what it is told."""
    total = 0.0
    for number in range(rounds):
        rows = np.arange(n)
        values = yield Jobs(rows, np.full(n, number), np.zeros(n), lane=lane)
        total += 0.0 if values is None else values.sum()
    return Outcome(np.array([total]))


def evaluate(seen):
    def call(batch):
        seen.append(batch)
        values = np.array(batch.keys) * 100.0 + batch.condition
        return Results(values, 2, 1)

    return call


def test_outcomes_come_in_order_and_batches_are_full():
    seen, n = [], [5, 3, 7, 1, 9, 4]
    programs = [(subject(i), asked_for(k)) for i, k in enumerate(n)]
    found = list(run(programs, evaluate(seen), 8))
    want = [100.0 * i * k + sum(range(k)) for i, k in enumerate(n)]
    assert [o.logits[0] for o in found] == want
    assert [len(b) for b in seen] == [8, 8, 8, 5]
    assert [(o.evals, o.vjps) for o in found] == [(2 * k, k) for k in n]


def test_rows_of_adaptive_programs_fill_batches_across_images():
    seen = []
    programs = [(subject(i), asked_for(2, rounds=5)) for i in range(8)]
    found = list(run(programs, evaluate(seen), 8))
    assert [o.evals for o in found] == [20] * 8
    assert np.mean([len(b) for b in seen]) == 8  # two rows at a time would be a quarter of that
    assert all(len({s.key for s in b.subjects}) == 4 for b in seen)


def test_images_are_taken_as_they_are_needed():
    taken = []

    def programs():
        for i in range(100):
            taken.append(i)
            yield subject(i), asked_for(4)

    stream = run(programs(), evaluate([]), 8)
    next(stream)
    assert len(taken) <= 6  # what fills a batch or two, not a hundred


def test_lanes_never_share_a_batch():
    seen = []
    programs = [(subject(i), asked_for(3, lane=np.array([0, 1, i % 2]))) for i in range(6)]
    list(run(programs, evaluate(seen), 4))
    assert {b.lane for b in seen} == {0, 1}
    assert sum(len(b) for b in seen) == 18 and max(map(len, seen)) == 4


def test_a_program_may_ask_for_nothing_and_values_may_be_anything():
    def idle():
        values = yield Jobs(*[np.zeros(0, int)] * 2, np.zeros(0))
        assert values is None
        words = yield Jobs(np.arange(2), np.arange(2), np.zeros(2), tag=np.array([7, 8]))
        return Outcome(np.zeros(1), extra=words)

    def call(batch):
        return Results(
            [f"row {c} tag {t}" for c, t in zip(batch.condition, batch.tag, strict=True)]
        )

    (found,) = run([(subject(0), idle())], call, 4)
    assert found.extra == ["row 0 tag 7", "row 1 tag 8"] and found.evals == 2
    assert list(run([], call, 4)) == []


def test_states_and_progress():
    states, progress = [], []

    def learning():
        for step in range(3):
            yield Jobs(np.arange(2), np.arange(2), np.zeros(2), state=step)
        return Outcome(np.zeros(1))

    def call(batch):
        states.extend(batch.states)
        return Results(np.zeros(len(batch)))

    list(run([(subject(i), learning()) for i in range(2)], call, 4, progress.append))
    assert states == [0, 0, 1, 1, 2, 2] and progress == [4, 4, 4]


def test_dense_jobs_put_the_classes_of_a_draw_side_by_side():
    jobs = Jobs.dense(np.array([3, 4, 5]), np.array([0, 1]), np.array([0.1, 0.2]))
    assert jobs.condition.tolist() == [3, 4, 5, 3, 4, 5]
    assert jobs.draw.tolist() == [0, 0, 0, 1, 1, 1] and jobs.t.tolist() == [0.1] * 3 + [0.2] * 3
