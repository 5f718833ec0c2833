"""The loss ignores false negatives, and the attack stays in its ball and does harm."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from training.captions import UNKNOWN, UNSAID, Codes, Meaning
from training.contrast import Targets, attack, climb, picture_loss, text_loss

CODES = Codes(["apple", "cat", "dog"])


def targets() -> Targets:
    """Two apples, one of unknown colour, and a cat; the captions of the apples fit both of them."""
    pictures = [Meaning("apple", "red", "white"), Meaning("apple", "", "white"), Meaning("cat", "blue", "green")]
    said = [Meaning("apple", "red"), Meaning("apple"), Meaning("cat", "", "green")]
    missed = [Meaning("apple", "blue"), Meaning("dog"), Meaning("cat", "", "red")]
    return Targets.compare(CODES.encode(pictures, UNKNOWN), CODES.encode([*said, *missed], UNSAID))


def test_only_false_captions_are_rivals() -> None:
    assert targets().rivals.tolist() == [
        [False, False, True, True, True, True],
        [False, False, True, False, True, True],
        [True, True, False, True, True, True],
    ]


def test_a_caption_that_fits_by_chance_costs_nothing() -> None:
    logits = torch.zeros(3, 9)
    fitting = logits.clone()
    fitting[0, 1] = 8.0  # "apple" is also true of the first picture
    wrong = logits.clone()
    wrong[0, 2] = 8.0  # "cat" is not
    assert picture_loss(fitting, targets()) == picture_loss(logits, targets())
    assert text_loss(fitting, targets()) == text_loss(logits, targets())
    assert picture_loss(wrong, targets()) > picture_loss(logits, targets()) + 1


def test_the_right_answers_cost_least() -> None:
    right = torch.zeros(3, 9)
    right[range(3), range(3)] = 9.0
    right[range(3), [6, 6, 7]] = 9.0
    assert picture_loss(right, targets()) < picture_loss(torch.zeros(3, 9), targets()) - 1
    assert text_loss(right, targets()) < 0.01


def loss(image: Tensor) -> Tensor:
    """Highest where the picture is bright on the left and dark on the right."""
    return (image * torch.linspace(1, -1, image.shape[-1])).sum()


def test_the_attack_stays_in_its_ball_and_in_range_and_raises_the_loss() -> None:
    image = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = attack(image, loss, radius=1.5, steps=3, rng=torch.Generator().manual_seed(1))
    assert 0 <= found.min() and found.max() <= 1
    assert ((found - image).flatten(1).norm(dim=1) <= 1.5 + 1e-4).all()
    assert not found.requires_grad
    noise = attack(image, lambda x: 0 * x.sum(), radius=1.5, steps=3, rng=torch.Generator().manual_seed(1))
    assert loss(found) > loss(image) + 1
    assert loss(found) > loss(noise) + 1


def test_the_attack_is_the_same_for_the_same_seed_and_each_picture_stands_alone() -> None:
    image = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    runs = [attack(image, loss, radius=1.0, steps=2, rng=torch.Generator().manual_seed(s)) for s in (3, 3, 4)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    moved = F.mse_loss(runs[0], image, reduction="none").flatten(1).sum(1)
    assert (moved > 0.5).all()


def test_a_climb_is_as_long_as_asked_until_it_meets_the_ball() -> None:
    image, gradient = torch.full((1, 3, 8, 8), 0.5), torch.ones(1, 3, 8, 8)
    delta = torch.zeros_like(image)
    lengths = []
    for _ in range(3):
        delta = climb(image, delta, gradient, radius=1.0, step=0.7)
        lengths.append(delta.norm().item())
    assert torch.allclose(torch.tensor(lengths), torch.tensor([0.7, 1.0, 1.0]))
