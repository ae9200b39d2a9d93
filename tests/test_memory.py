import numpy as np
import torch

from diffzero.evaluate.memory import peak_memory


def test_the_peak_is_seen_though_it_passes():
    with peak_memory(torch.device("cpu"), every=0.001) as peak:
        block = np.ones(16 * 2**20)  # 128 MiB, given back before the end
        block += 1
        del block
    assert 100 < peak.mib < 400


def test_memory_in_use_before_does_not_count():
    kept = np.ones(8 * 2**20)
    with peak_memory(torch.device("cpu")) as peak:
        pass
    assert peak.mib < 32 and kept[0] == 1
