"""A compiled network whose gradients are wrong is not trained."""

import warnings

import pytest
import torch
from torch import nn

from diffzero.train import ldm
from diffzero.train.compiled import Compiled


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.SiLU(), nn.Linear(6, 3))


class _Cut(nn.Module):
    """The right answer, with no gradient of the first layer."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net[2](self.net[1](self.net[0](x)).detach())


class _Bent(_Cut):
    """The right answer, with gradients a fifth too large."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.net(x)
        return 1.2 * y - 0.2 * y.detach()


@pytest.mark.parametrize(("way", "said"), [(_Cut, "zeros for 2 of 4 weights"), (_Bent, "off by")])
def test_wrong_gradients_are_not_trained_with(
    way: type[nn.Module], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", way)
    net, x = _net(), torch.randn(5, 4)
    network = Compiled(net)
    with pytest.warns(RuntimeWarning, match=said):
        y = network(x)
    assert all(g.any() for g in torch.autograd.grad(y.sum(), list(net.parameters())))


def test_right_ones_are(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda net: real(net, backend="aot_eager"))
    net, x = _net(), torch.randn(5, 4)
    network = Compiled(net)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with torch.no_grad():
            assert torch.allclose(network(x), net(x), atol=1e-6)
        assert not network.checked
        network(x)
    assert network.checked and network.network is not net
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.slow
def test_the_ldms_network_learns_everywhere_when_compiled() -> None:
    """Whatever the compiler makes of it: on CPUs with bfloat16, torch 2.13's gave zeros."""
    torch.manual_seed(0)
    preset = ldm.Preset((16, 64, 128), (96, 192), 64, 16, fast=True)
    unet = ldm.denoiser(preset, 10).to(memory_format=torch.channels_last)
    latents, labels = torch.randn(32, ldm.CHANNELS, 8, 8), torch.arange(32) % 10
    loss = ldm.denoising_loss(unet, latents, labels, 10, "cpu", preset)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        loss(torch.Generator().manual_seed(0)).backward()
    still = [k for k, p in unet.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still
