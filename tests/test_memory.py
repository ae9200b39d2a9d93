import torch

from diffzero.evaluate.memory import peak_memory

CPU = torch.device("cpu")


def test_the_peak_is_seen_though_it_passes():
    with peak_memory(CPU) as peak:
        first = torch.ones(2**20)  # 4 MiB
        second = first + 1
        del first
        third = second * 2
        del second
    assert 8 <= peak.mib < 8.1 and third[0] == 4


def test_memory_in_use_before_does_not_count_and_earlier_work_does_not_hide_any():
    kept = torch.ones(2**20)
    for _ in range(2):
        with peak_memory(CPU) as peak:
            kept.sum()
        assert peak.mib < 0.1
        with peak_memory(CPU) as peak:
            kept * 2
        assert 4 <= peak.mib < 4.1
