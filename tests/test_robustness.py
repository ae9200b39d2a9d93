"""The robustness experiment: contrasts of known tables, and one real run."""

import json

import numpy as np
import pytest

from diffzero.experiments import default_model, robustness
from test_cli import run


def test_contrast_is_above_zero_where_wrong_labels_suffer_more():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 40)
    change = 1 + 0.1 * rng.normal(size=(40, 4))
    even = robustness._contrast(change, labels)["interval"]
    assert even[0] <= 0 <= even[1]
    change[np.arange(40), labels] -= 0.5
    found = robustness._contrast(change, labels)
    assert found["interval"][0] > 0.7 and found["value"] == pytest.approx(1.0, abs=0.15)


@pytest.mark.slow
def test_every_corruption_and_severity_is_there(monkeypatch, capsys, tmp_path):
    pytest.importorskip("imagecorruptions", reason="pip install 'diffzero[robustness]'")
    assert default_model("robustness") == "tiny-sd"
    # The class-conditional model serves as well, and is quicker.
    assert run(monkeypatch, "reproduce", "robustness", "--model", "digits-ddpm", "--limit", 3,
               "--out", tmp_path) == 0  # fmt: skip
    numbers = json.loads((tmp_path / "robustness.json").read_text())
    assert len(numbers["accuracy"]) == 1 + 15 * len(robustness.SEVERITIES)
    assert set(numbers["false_minus_true"]) == set(robustness.NAMES)
    assert "Accuracy lost to corruptions" in capsys.readouterr().err
