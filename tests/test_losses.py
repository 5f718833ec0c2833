"""Loss terms against float64 formulations written another way."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vqclip.loop import looks, losses
from vqclip.loop.losses import View


def unit(*shape: int, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=rng, dtype=torch.float64), dim=-1)


def view(embeds: Tensor) -> View:
    return View(0, torch.zeros(1, 4, 2, 2), torch.zeros(1, 3, 8, 8, dtype=embeds.dtype), [embeds[None]])


def test_spherical_distance_is_half_the_squared_angle() -> None:
    features, targets = unit(50, 16), unit(7, 16, seed=1)
    angle = (features @ targets.T).arccos()
    assert torch.allclose(losses.spherical_distance(features, targets), angle.square() / 2, atol=1e-12)
    single = losses.spherical_distance(features.float(), targets.float()).double()
    assert torch.allclose(single, angle.square() / 2, atol=1e-6)


def test_spherical_distance_of_known_angles() -> None:
    here = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    for theta in (0.1, 1.0, math.pi / 2, 3.0):
        there = torch.tensor([[math.cos(theta), math.sin(theta)]], dtype=torch.float64)
        assert float(losses.spherical_distance(here, there)) == pytest.approx(theta**2 / 2, rel=1e-9)
    assert float(losses.spherical_distance(here, -here)) == pytest.approx(math.pi**2 / 2, rel=2e-3)


def test_gradient_is_finite_at_the_target_and_opposite_to_it() -> None:
    target = unit(1, 8)
    for features in (target, -target):
        x = features.clone().requires_grad_()
        losses.spherical_distance(x, target).sum().backward()
        assert x.grad is not None
        assert torch.isfinite(x.grad).all()


def test_gradient_matches_finite_differences() -> None:
    features, targets = unit(3, 5).requires_grad_(), unit(2, 5, seed=3)
    assert torch.autograd.gradcheck(lambda f: losses.spherical_distance(f, targets), features)


@pytest.mark.parametrize("make", [losses.attract, losses.repel])
def test_weight_two_is_twice_weight_one(make: object) -> None:
    targets, embeds = [unit(1, 8)], unit(6, 8, seed=1)
    values, grads = [], []
    for weight in (1.0, 2.0):
        x = embeds.clone().requires_grad_()
        value = make(targets, [1.0], weight=weight, stop=None)(view(x))  # type: ignore[operator]
        value.backward()
        values.append(value.detach())
        grads.append(x.grad)
    assert torch.equal(values[1], 2 * values[0])
    assert torch.allclose(grads[1], 2 * grads[0], rtol=1e-14, atol=0)


def test_two_equal_prompts_are_one_of_weight_two() -> None:
    targets, embeds = [unit(1, 8)], unit(6, 8, seed=1)
    once = losses.attract(targets, [1.0], weight=1.0, stop=None)(view(embeds))
    twice = losses.attract(targets, [1.0], weight=2.0, stop=None)(view(embeds))
    assert torch.equal(once + once, twice)


def test_repel_is_the_negative_of_attract() -> None:
    targets, embeds = [unit(1, 8)], unit(6, 8, seed=1)
    pull = losses.attract(targets, [1.0], weight=0.7, stop=None)(view(embeds))
    push = losses.repel(targets, [1.0], weight=0.7, stop=None)(view(embeds))
    assert torch.equal(pull, -push)


def test_attract_has_no_gradient_past_its_stop() -> None:
    target, embeds = unit(1, 8), unit(40, 8, seed=1)
    distance = losses.spherical_distance(embeds, target)[:, 0]
    stop = float(distance.median())
    x = embeds.clone().requires_grad_()
    value = losses.attract([target], [1.0], weight=1.0, stop=stop)(view(x))
    value.backward()
    moved = x.grad.norm(dim=1) > 0
    assert torch.equal(moved, distance > stop)
    assert float(value) == pytest.approx(float(distance.mean()))  # the value itself is not clipped


def test_repel_has_no_gradient_beyond_its_stop() -> None:
    target, embeds = unit(1, 8), unit(40, 8, seed=1)
    distance = losses.spherical_distance(embeds, target)[:, 0]
    stop = float(distance.median())
    x = embeds.clone().requires_grad_()
    losses.repel([target], [1.0], weight=1.0, stop=stop)(view(x)).backward()
    assert torch.equal(x.grad.norm(dim=1) > 0, distance < stop)


def test_cosine_distance_is_minus_the_cosine() -> None:
    features, targets = unit(50, 16), unit(7, 16, seed=1)
    angle = (2 * losses.spherical_distance(features, targets)).sqrt()
    assert torch.allclose(losses.cosine_distance(features, targets), -angle.cos(), atol=1e-12)
    value = losses.attract([targets[:1]], [1.0], weight=2.0, stop=None, distance="cosine")(view(features))
    assert float(value) == pytest.approx(-2 * float((features @ targets[0]).mean()))


@pytest.mark.parametrize("make", [losses.attract, losses.repel])
def test_a_stop_is_the_same_angle_whatever_the_distance(make: object) -> None:
    target, embeds = unit(1, 8), unit(40, 8, seed=1)
    stop = float(losses.spherical_distance(embeds, target).median()) + 1e-9
    moved = []
    for distance in losses.DISTANCES:
        x = embeds.clone().requires_grad_()
        make([target], [1.0], weight=1.0, stop=stop, distance=distance)(view(x)).backward()  # type: ignore[operator]
        moved.append(x.grad.norm(dim=1) > 0)
    assert 0 < int(moved[0].sum()) < 40
    assert torch.equal(*moved)


def test_an_ensemble_is_the_weighted_mean_of_its_members() -> None:
    first, second = unit(1, 8), unit(1, 12, seed=1)
    a, b = unit(5, 8, seed=2), unit(5, 12, seed=3)
    both = View(0, torch.zeros(1), torch.zeros(1, 3, 4, 4, dtype=torch.float64), [a[None], b[None]])
    value = losses.attract([first, second], [3.0, 1.0], weight=1.0, stop=None)(both)
    expected = 0.75 * losses.spherical_distance(a, first).mean() + 0.25 * losses.spherical_distance(b, second).mean()
    assert torch.allclose(value, expected, atol=1e-12)


def test_smooth_is_zero_on_flat_pictures_and_counts_an_edge() -> None:
    flat = torch.full((1, 3, 8, 8), 0.3)
    term = losses.smooth(2.0)
    assert float(term(View(0, flat, flat))) == 0
    edge = flat.clone()
    edge[..., 4:] = 0.8
    assert float(term(View(0, flat, edge))) == pytest.approx(2.0 * 0.5 / 7)


def test_anchor_and_decay_pull_where_they_say() -> None:
    start = torch.full((1, 2, 3, 3), 0.5)
    latent = torch.full((1, 2, 3, 3), 0.7, requires_grad=True)
    image = torch.zeros(1, 3, 4, 4)
    value = losses.anchor(1.0)(View(0, latent, image, start=start))
    assert float(value.detach()) == pytest.approx(0.04)
    value.backward()
    assert (latent.grad > 0).all()
    assert float(losses.decay(2.0)(View(0, latent, image)).detach()) == pytest.approx(0.49)
    longer = View(0, 10 * latent, image, start=10 * start)
    assert float(losses.anchor(1.0, unit=10.0)(longer).detach()) == pytest.approx(0.04)
    assert float(losses.decay(2.0, unit=10.0)(longer).detach()) == pytest.approx(0.49)


def terms() -> dict[str, losses.Loss]:
    """One of every kind, for two perceptors."""
    aims = [unit(2, 8), unit(2, 12, seed=1)]
    stops = [torch.tensor([1.0, 1.2], dtype=torch.float64)] * 2
    pull = losses.attract(aims, [3.0, 1.0], weight=0.7, stop=1.1)
    return {
        "attract": pull,
        "repel": losses.repel(aims, [3.0, 1.0], weight=0.7, stop=1.3, distance="cosine"),
        "avoid": losses.avoid(aims, stops, [1.0, 1.0], weight=2.0),
        "together": losses.together(pull, pull),
        "unpaint": losses.unpaint("red", 1.0, spare=0.01),
        "where painted": losses.where_painted("red", pull, spare=0.01),
        "paint": losses.paint(["red", "blue"], 1.0),
        "smooth": losses.smooth(0.5),
        "anchor": losses.anchor(0.5),
        "decay": losses.decay(0.5),
        **{look: looks.appear(look, 1.0) for look in looks.NAMES},
        "late": losses.avoid(aims, stops, [1.0, 1.0], weight=2.0, first=9),
    }


@pytest.mark.parametrize("name", terms())
def test_every_latent_of_a_batch_has_the_value_and_gradient_that_it_has_alone(name: str) -> None:
    rng = torch.Generator().manual_seed(4)
    images = torch.rand(3, 3, 8, 8, generator=rng, dtype=torch.float64)
    images[1, 0] = 1  # one of them is red
    latents, starts = torch.randn(2, 3, 4, 2, 2, generator=rng, dtype=torch.float64)
    embeds = [unit(3, 5, 8, seed=7), unit(3, 5, 12, seed=8)]
    term = terms()[name]

    def seen(rows: slice) -> tuple[Tensor, list[Tensor]]:
        leaves = [part[rows].clone().requires_grad_() for part in (latents, images, *embeds)]
        value = term(View(0, leaves[0], leaves[1], leaves[2:], starts[rows]))
        if value.requires_grad:
            value.sum().backward()
        return value.detach(), [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]

    together, slopes = seen(slice(None))
    assert together.shape == (3,)
    for row in range(3):
        alone, own = seen(slice(row, row + 1))
        assert torch.allclose(together[row], alone[0], rtol=1e-12, atol=1e-14)
        assert all(torch.allclose(a[row], b[0], rtol=1e-9, atol=1e-14) for a, b in zip(slopes, own, strict=True))


def test_each_latent_may_have_a_target_of_its_own() -> None:
    targets, embeds = unit(3, 1, 8, seed=1), unit(3, 6, 8, seed=2)
    images = torch.zeros(3, 3, 8, 8, dtype=torch.float64)
    value = losses.attract([targets], [1.0], weight=2.0, stop=None)(View(0, images, images, [embeds]))
    for row in range(3):
        alone = losses.spherical_distance(embeds[row], targets[row]).mean()
        assert float(value[row]) == pytest.approx(2 * float(alone))
