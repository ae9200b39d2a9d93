"""Convolutions that train faster on a CPU: the same answers, the same gradients."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from diffzero.train import convolutions, patches, winograd
from diffzero.train.convolutions import faster_convolutions
from diffzero.train.patches import ByPatches
from diffzero.train.winograd import Winograd


def _taken(function, x, kernel, dy):
    """Answer, gradient of the input, gradient of the kernel."""
    x, kernel = (a.detach().clone().requires_grad_() for a in (x, kernel))
    y = function(x, kernel)
    y.backward(dy)
    return y, x.grad, kernel.grad


@pytest.mark.parametrize("side", [(4, 4), (8, 8), (12, 4)])
def test_a_convolution_and_its_gradients_are_those_of_the_sum(side: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 5, *side, generator=generator, dtype=torch.float64)
    kernel = torch.randn(7, 5, 3, 3, generator=generator, dtype=torch.float64)
    dy = torch.randn(3, 7, *side, generator=generator, dtype=torch.float64)
    exact = _taken(lambda x, kernel: functional.conv2d(x, kernel, padding=1), x, kernel, dy)
    by_patches = _taken(ByPatches.apply, x, kernel, dy)
    winograds = _taken(Winograd.apply, x.float(), kernel.float(), dy.float())
    for wanted, same, near in zip(exact, by_patches, winograds, strict=True):
        torch.testing.assert_close(same, wanted)
        torch.testing.assert_close(near.double(), wanted, rtol=1e-4, atol=1e-4)


def test_an_input_that_needs_no_gradient_gets_none() -> None:
    x, kernel = torch.randn(2, 3, 4, 4), torch.randn(5, 3, 3, 3, requires_grad=True)
    for way in (ByPatches, Winograd):
        (found,) = torch.autograd.grad(way.apply(x, kernel).square().sum(), kernel)
        (wanted,) = torch.autograd.grad(
            functional.conv2d(x, kernel, padding=1).square().sum(), kernel
        )
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


def test_the_maps_have_the_products_of_faster_convolutions() -> None:
    """One tile, one channel: 36 products where the sum takes 144."""
    assert winograd.INPUT.shape == (36, 36)
    assert winograd.KERNEL.shape == (36, 9)
    assert winograd.OUTPUT.shape == (16, 36)


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(64, 64, 3, padding=1)
        self.thin = nn.Conv2d(64, 8, 3, padding=1)
        self.down = nn.Conv2d(64, 64, 3, padding=1, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.thin(self.wide(x)).mean() + self.down(x).mean()


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_a_network_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolutions, "bfloat16_pays", lambda: False)
    torch.manual_seed(0)
    net, x = _Net(), torch.randn(2, 64, 8, 8)
    names = list(net.state_dict())
    plain = net.wide(x)
    with faster_convolutions(net):
        assert isinstance(net.wide, winograd.Convolution)
        assert type(net.thin) is type(net.down) is nn.Conv2d
        torch.testing.assert_close(net.wide(x), plain, rtol=1e-4, atol=1e-4)
        odd = torch.randn(2, 64, 6, 6)  # no multiple of 4: the sum itself
        assert torch.equal(
            net.wide(odd), functional.conv2d(odd, *net.wide.parameters(), padding=1)
        )
        net(x).backward()
        assert list(net.state_dict()) == names
    assert type(net.wide) is nn.Conv2d


@pytest.mark.usefixtures("one_thread")
def test_classes_come_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolutions, "bfloat16_pays", lambda: False)
    net = _Net()
    with pytest.raises(KeyboardInterrupt), faster_convolutions(net):
        assert isinstance(net.wide, winograd.Convolution)
        raise KeyboardInterrupt
    assert type(net.wide) is nn.Conv2d


@pytest.mark.usefixtures("one_thread")
def test_under_autocast_gradients_are_those_of_conv2d(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolutions, "bfloat16_pays", lambda: True)
    torch.manual_seed(0)
    net, x = _Net(), torch.randn(2, 64, 4, 4)

    counted, real = [], patches.neighbourhoods
    monkeypatch.setattr(patches, "neighbourhoods", lambda x: counted.append(x.shape) or real(x))

    def gradients() -> list[torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            return list(torch.autograd.grad(net(x).float(), list(net.parameters())))

    wanted = gradients()
    with faster_convolutions(net):
        assert type(net.wide) is patches.Convolution
        found = gradients()
        assert counted == [x.shape]
        net(x).backward()  # in float32, and of many pixels, it is Conv2d itself
        with torch.autocast("cpu", torch.bfloat16):
            net(torch.randn(1, 64, 8, 8)).float().backward()
        assert counted == [x.shape]
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.dtype == theirs.dtype == torch.float32
        assert (ours - theirs).norm() <= 0.02 * theirs.norm()
    assert type(net.wide) is nn.Conv2d


@pytest.mark.parametrize("pays", [True, False])
def test_under_several_threads_nothing_is_done(
    monkeypatch: pytest.MonkeyPatch, pays: bool
) -> None:
    monkeypatch.setattr(convolutions, "bfloat16_pays", lambda: pays)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    net = _Net()
    with faster_convolutions(net):
        assert type(net.wide) is nn.Conv2d
