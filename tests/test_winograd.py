"""Convolutions by minimal filtering: the same answers, the same gradients."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from diffzero.train import winograd
from diffzero.train.winograd import Winograd, minimal_filtering


@pytest.mark.parametrize("side", [(4, 4), (8, 8), (12, 4)])
def test_a_convolution_and_its_gradients_are_those_of_the_sum(side: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 5, *side, generator=generator, dtype=torch.float64, requires_grad=True)
    kernel = torch.randn(7, 5, 3, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    dy = torch.randn(3, 7, *side, generator=generator, dtype=torch.float64)
    y = functional.conv2d(x, kernel, padding=1)
    y.backward(dy)

    near_x = x.detach().float().requires_grad_()
    near_kernel = kernel.detach().float().requires_grad_()
    near = Winograd.apply(near_x, near_kernel)
    near.backward(dy.float())

    for ours, exact in ((near, y), (near_x.grad, x.grad), (near_kernel.grad, kernel.grad)):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=1e-4)


def test_the_maps_have_the_products_of_minimal_filtering() -> None:
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
    monkeypatch.setattr(winograd, "bfloat16_pays", lambda: False)
    torch.manual_seed(0)
    net, x = _Net(), torch.randn(2, 64, 8, 8)
    names = list(net.state_dict())
    plain = net.wide(x)
    with minimal_filtering(net):
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
    monkeypatch.setattr(winograd, "bfloat16_pays", lambda: False)
    net = _Net()
    with pytest.raises(KeyboardInterrupt), minimal_filtering(net):
        assert isinstance(net.wide, winograd.Convolution)
        raise KeyboardInterrupt
    assert type(net.wide) is nn.Conv2d


@pytest.mark.parametrize(("threads", "pays"), [(1, True), (2, False)])
def test_where_it_gains_nothing_nothing_is_done(
    monkeypatch: pytest.MonkeyPatch, threads: int, pays: bool
) -> None:
    monkeypatch.setattr(winograd, "bfloat16_pays", lambda: pays)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    net = _Net()
    with minimal_filtering(net):
        assert type(net.wide) is nn.Conv2d
