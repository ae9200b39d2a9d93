"""Training in several processes: the step of all batches together, the same weights everywhere."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.multiprocessing import spawn

import diffzero as dz
from diffzero.train import loop, parallel


def _join(rank: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What torchrun tells its processes, with a file to meet at."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(
        parallel.dist, "init_process_group",
        lambda kind, device_id, begin=parallel.dist.init_process_group: begin(
            kind, init_method=f"file://{folder / 'meet'}", rank=rank, world_size=2
        ),
    )  # fmt: skip


def _averages(rank: int, folder: Path) -> None:
    """Process `rank` of two: gradients of its own half of six examples."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        _join(rank, folder, patch)
        with parallel.group("cpu") as device:
            assert (device, parallel.several(), parallel.rank()) == ("cpu", True, rank)
            net, x = _net(), _examples()[3 * rank : 3 * rank + 3]
            net.used(x).square().mean().backward()
            parallel.average_gradients(net.parameters())
            seconds = parallel.agreed(1.0 + rank, torch.device("cpu"))
        assert not parallel.several()
    torch.save([net.used.weight.grad, net.idle.weight.grad, seconds], folder / f"{rank}.pt")


def _fits(rank: int, folder: Path) -> None:
    """Process `rank` of two learns the mean of what both draw, stops, and goes on."""
    torch.set_num_threads(1)
    drawn = []

    def loss(generator: torch.Generator) -> torch.Tensor:
        x = torch.randn(4, 5, generator=generator)
        drawn.append(x)
        return (net.used(x) - x[:, :2]).square().mean()

    with pytest.MonkeyPatch.context() as patch:
        _join(rank, folder, patch)
        patch.setattr(loop, "bfloat16_pays", lambda: rank == 1)  # each may find otherwise
        with parallel.group("cpu"):
            for minutes in (0.01, 0.02):
                net = _net()
                path = folder / "state.pt"
                loop.fit(net, loss, path, minutes, muon="used", log=lambda line: None)
    torch.save([net.used.weight, torch.stack(drawn)], folder / f"{rank}.pt")


def _net() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Module()
    net.used, net.idle = nn.Linear(5, 2), nn.Linear(5, 2)
    return net


def _examples() -> torch.Tensor:
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(1))


def test_gradients_are_those_of_all_batches_together(tmp_path: Path) -> None:
    spawn(_averages, (tmp_path,), nprocs=2)
    net = _net()
    net.used(_examples()).square().mean().backward()
    for rank in range(2):
        gradient, idle, seconds = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(gradient, net.used.weight.grad)
        assert idle is None  # an optimizer leaves it as it is
        assert seconds == 1.5


def test_processes_draw_their_own_batches_and_end_with_the_same_weights(tmp_path: Path) -> None:
    spawn(_fits, (tmp_path,), nprocs=2)
    (weights, drawn), (others, theirs) = (
        torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)
    )
    assert torch.equal(weights, others)
    assert drawn.shape == theirs.shape and len(drawn) > 2
    seen = torch.cat([drawn, theirs]).flatten(1)
    assert len(seen.unique(dim=0)) == len(seen)  # nothing twice, after going on neither
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["step"] == len(drawn)


def test_alone_nothing_changes() -> None:
    net = _net()
    net.used(_examples()).sum().backward()
    before = net.used.weight.grad.clone()
    with parallel.group("cpu") as device:
        parallel.average_gradients(net.parameters())
        parallel.barrier()
        assert (device, parallel.several(), parallel.rank()) == ("cpu", False, 0)
        assert parallel.agreed(0.25, torch.device("cpu")) == 0.25
    assert torch.equal(net.used.weight.grad, before)


def _torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         "-m", "diffzero", "train", *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_torchrun_trains_a_model_that_loads(tmp_path: Path) -> None:
    done = _torchrun(
        "digits-ddpm", "--data", "digits=digits", "--minutes", "0.02", "--no-measure",
        "--device", "cpu", "--out", str(tmp_path / "model"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(" weights") == 1  # one process speaks
    model = dz.load(tmp_path / "model", device="cpu")
    assert len(model.classes) == 10


def test_recipes_of_one_process_say_so(tmp_path: Path) -> None:
    done = _torchrun("tiny-clip", "--minutes", "0.02", "--out", str(tmp_path / "model"))
    assert done.returncode != 0
    assert "trains in one process" in done.stderr
    assert "bug in diffzero" not in done.stderr
    assert not (tmp_path / "model").exists()
