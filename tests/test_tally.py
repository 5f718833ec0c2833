"""Counting what tensors hold, and continuing the count."""

from __future__ import annotations

import torch

from vqclip.generators.vqgan import VQGAN
from vqclip.run.tally import Growth, Trace, Turn, trace

MEGA = 1 << 20


def floats(megabytes: int) -> torch.Tensor:
    return torch.ones(megabytes * MEGA // 4)


def test_each_tensor_counts_once_while_it_lives() -> None:
    def work(turn: Turn) -> None:
        first = floats(4)
        view = first[10:].view(-1, 2)
        second = view * 2  # 10 elements less
        del first, view
        turn()
        second.add_(1)
        del second
        floats(1)

    counted = trace(work)
    assert max(counted.history) == 8 * MEGA - 40
    assert counted.history[counted.turn] == 4 * MEGA - 40
    assert counted.history[-1] == MEGA


def test_what_comes_from_outside_counts_nothing() -> None:
    weight = floats(8).view(1024, -1)
    counted = trace(lambda turn: (turn(), weight.T.mul_(1))[0])
    assert max(counted.history) == 0


def test_graphs_and_their_backward_passes_are_counted() -> None:
    start = floats(1).requires_grad_()

    def work(turn: Turn) -> None:
        value = start
        for _ in range(5):
            value = value.sin()  # keeps its input, the first of which is `start`
        turn()
        value.backward(torch.ones_like(value))

    counted = trace(work)
    assert counted.history[counted.turn] == 5 * MEGA
    assert 6 * MEGA <= max(counted.history) <= 8 * MEGA
    assert counted.history[-1] <= 3 * MEGA  # the gradient, and what Python still holds


def test_a_decoder_with_attention_is_continued_exactly(generator: VQGAN) -> None:
    def decode(rows: int, columns: int) -> Trace:
        def work(turn: Turn) -> None:
            rng = torch.Generator().manual_seed(0)
            latent = generator.sample((columns * generator.stride, rows * generator.stride), rng).requires_grad_()
            image = generator.decode(latent)
            turn()
            image.backward(torch.ones_like(image))

        return trace(work)

    small = Growth((4, 9, 16), tuple(decode(side, side) for side in (2, 3, 4)))
    assert generator.shape.attention  # bytes grow by cells squared
    for rows, columns in ((4, 4), (9, 14), (20, 32)):
        true = decode(rows, columns)
        assert small.at(rows * columns) == (true.history[true.turn], max(true.history))


def test_another_moment_may_be_the_worst_at_another_amount() -> None:
    growth = Growth((1, 2), (Trace((100, 10), 0), Trace((110, 20), 0)))
    assert growth.at(2) == (110, 110)
    assert growth.at(50) == (590, 590)
    crossed = Growth((1, 2), (Trace((100, 10), 0), Trace((100, 30), 0)))
    assert crossed.at(21) == (100, 410)


def test_work_that_changes_its_way_is_continued_in_proportion() -> None:
    growth = Growth((1, 2), (Trace((100, 10), 1), Trace((100, 40, 30), 1)))
    assert growth.at(10) == (200, 500)
    assert Growth((4,), (Trace((8, 2), 1),)).at(4) == (2, 8)
