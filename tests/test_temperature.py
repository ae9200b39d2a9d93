"""One rule for temperatures."""

import numpy as np
import pytest

import diffzero as dz
from diffzero.models.backbone import Temperature
from diffzero.temperature import between, fitted_temperature, plain, temperature_entry

FITTED = {8: 0.4, 32: 0.1}


def test_between_fitted_numbers_log_t_is_linear_in_log_n():
    assert between(FITTED, 8) == pytest.approx(0.4)
    assert between(FITTED, 16) == pytest.approx(0.2)  # half way in both logarithms
    assert between(FITTED, 20) == pytest.approx(0.4 * (20 / 8) ** -1)
    assert between(FITTED, 4) is None and between(FITTED, 64) is None and between({}, 3) is None


def test_settings_must_be_those_in_use():
    entry = Temperature("elbo", {"loss": "l2", "t_range": [0.1, 0.9]}, FITTED)
    same = {"loss": "l2", "t_range": (0.1, 0.9)}
    assert fitted_temperature([entry], "elbo", same, 8) == pytest.approx(0.4)
    assert fitted_temperature([entry], "elbo", same | {"loss": "l1"}, 8) is None
    assert fitted_temperature([entry], "race", same, 8) is None
    assert fitted_temperature([entry], "elbo", same | {"guidance": 1.0}, 8) is None


def test_settings_survive_a_card():
    import yaml

    classifier = dz.NoiseDenoise("tiny-sd", level=np.float64(0.3), draws=2)
    entry = yaml.safe_load(yaml.safe_dump(temperature_entry(classifier, {2: 0.5})))
    found = fitted_temperature([Temperature(**entry)], "noise-denoise", classifier.settings(), 2)
    assert found == 0.5
    assert plain((np.int64(3), (1.5, None))) == [3, [1.5, None]]


@pytest.mark.parametrize("draws", [20, 32, 48, 64])
def test_bundled_temperatures_serve_numbers_that_were_not_fitted(draws):
    classifier = dz.ELBO("tiny-sd", draws=draws).fit(["sneaker", "bag"])
    assert classifier.calibrated and 0.15 < classifier.temperature_in_use() < 0.3


def test_where_none_fits_the_answer_says_so():
    for options in ({"draws": 65}, {"loss": "l1"}, {"guidance": 2.0}, {"target": "x"}):
        classifier = dz.ELBO("tiny-sd", **{"draws": 8, **options}).fit(["sneaker", "bag"])
        assert not classifier.calibrated and classifier.temperature_in_use() == 1.0
    given = dz.ELBO("tiny-sd", loss="l1", temperature=2.0).fit(["sneaker", "bag"])
    assert given.calibrated and given.temperature_in_use() == 2.0


def test_the_command_line_says_so(monkeypatch, capsys, tmp_path):
    from PIL import Image

    from test_cli import run

    Image.new("RGB", (28, 28), "red").save(tmp_path / "a.png")
    words = ("--labels", "sneaker,bag", "--set", "draws=1")
    assert run(monkeypatch, "classify", tmp_path, *words, "--set", "loss=l1") == 0
    assert "probabilities are not calibrated" in capsys.readouterr().err
    assert run(monkeypatch, "classify", tmp_path, *words) == 0
    assert "not calibrated" not in capsys.readouterr().err
