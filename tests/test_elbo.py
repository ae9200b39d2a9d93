import numpy as np
import pytest
import torch

import diffzero as dz
from conftest import as_x0, oracle_problem
from diffzero.noise import gaussian, image_key, quantiles

ORACLE_SCHEDULES = {
    "ddpm": dz.DiscreteSchedule.linear(),
    "log-snr linear": dz.LogSNRLinearSchedule(),
    "rectified flow": dz.RectifiedFlowSchedule(),
}


@pytest.mark.parametrize("name", ORACLE_SCHEDULES)
def test_elbo_of_the_exact_denoiser_is_the_posterior(name):
    """Overlapping mixtures: mean posterior error at most 0.02, argmax right beyond 4 s.e."""
    backbone, pixels, _ = oracle_problem(ORACLE_SCHEDULES[name], n=260)
    exact = backbone.posterior(as_x0(pixels)).numpy()
    hard = (exact.max(1) >= 0.3) & (exact.max(1) <= 0.95)
    assert hard.sum() >= 100
    pixels, exact = pixels[hard], exact[hard]
    # Beyond these lambda the mixture's classes are told apart by less than 0.01 nats.
    clf = dz.ELBO(
        backbone, draws=1024, weights="elbo", log_snr_range=(-6, 8), batch_size=4096
    ).fit(backbone.classes)
    errors = clf.draw_errors(pixels)
    logits = np.stack([clf.reduce(e) for e in errors])
    proba = clf.probabilities(dz.Scores(logits, np.zeros(len(logits))))
    assert np.abs(proba - exact).mean() <= 0.02

    log_p = backbone.log_prob(as_x0(pixels)).numpy()
    decided = 0
    for error, truth, estimate in zip(errors, log_p, logits, strict=True):
        first, second = np.argsort(-truth)[:2]
        paired = 7.0 * (error[:, first, 0] - error[:, second, 0])  # half the range of lambda
        stderr = paired.std(ddof=1) / np.sqrt(len(paired))
        if truth[first] - truth[second] > 4 * stderr:
            decided += 1
            assert estimate.argmax() == first
    assert decided >= 30


def test_errors_are_those_of_the_formula_written_out(oracle):
    backbone, pixels, _ = oracle
    clf = dz.ELBO(backbone, draws=3, seed=4).fit(backbone.classes)
    (errors,) = clf.draw_errors(pixels[0])
    key = image_key(4, pixels[0])
    t_min = backbone.schedule.t_min
    for d in range(3):
        t = torch.tensor([t_min + quantiles(key, np.arange(3))[d] * (1 - t_min)])
        eps = torch.from_numpy(gaussian(key, d, backbone.shape)).double()
        alpha, sigma = backbone.schedule(t)
        x_t = alpha * as_x0(pixels[:1]) + sigma * eps
        for c in range(4):
            eps_hat = backbone.forward(x_t, t, backbone.embed([str(c)])).eps
            assert errors[d, c, 0] == pytest.approx(float((eps - eps_hat).square().sum()))


def test_uniform_logit_is_minus_the_mean_error(oracle):
    backbone, pixels, _ = oracle
    clf = dz.ELBO(backbone, draws=5).fit(backbone.classes)
    errors = clf.draw_errors(pixels[:2])
    logits = clf.scores(pixels[:2]).logits
    assert np.allclose(logits, [-e.mean(0)[:, 0] for e in errors])


@pytest.mark.parametrize("backbone_name", ["oracle", "sd"])
def test_scores_do_not_depend_on_batch_order_or_shard(backbone_name, oracle, sd, photos):
    if backbone_name == "oracle":
        backbone, images, _ = oracle
        images, names = list(images[:9]), backbone.classes
    else:
        backbone, images, names = sd, photos, ["cat", "dog", "fox"]

    def clf(batch_size):
        return dz.ELBO(backbone, draws=6, batch_size=batch_size).fit(names)

    reference = clf(64).scores(images).logits
    tolerance = 1e-5 * np.abs(reference).max()
    order = np.random.default_rng(0).permutation(len(images))
    half = len(images) // 2
    variants = {
        "one": clf(1).scores(images).logits,
        "seven": clf(7).scores(images).logits,
        "shuffled": clf(64).scores([images[i] for i in order]).logits[np.argsort(order)],
        "shards": np.concatenate(
            [clf(7).scores(part).logits for part in (images[:half], images[half:])]
        ),
    }
    for name, logits in variants.items():
        assert np.abs(logits - reference).max() <= tolerance, name
        assert (logits.argmax(1) == reference.argmax(1)).all(), name


def test_more_draws_reuse_the_first(oracle):
    backbone, pixels, _ = oracle
    few = dz.ELBO(backbone, draws=4).fit(backbone.classes).draw_errors(pixels[:2])
    many = dz.ELBO(backbone, draws=16).fit(backbone.classes).draw_errors(pixels[:2])
    assert all(np.allclose(m[:4], f) for m, f in zip(many, few, strict=True))


def test_guidance_doubles_evaluations_and_counts_agree(sd, photos):
    for guidance, factor in ((1.0, 1), (2.0, 2)):
        clf = dz.ELBO(sd, draws=2, guidance=guidance, template=["a {}", "a photo of a {}"])
        counted = []
        scores = clf.fit(["cat", "dog", "fox"]).scores(photos[:2], progress=counted.append)
        assert sum(counted) == scores.evals.sum() == 2 * 2 * 2 * 3 * factor
        assert clf.count_evals(3) == scores.evals[0]


def test_templates_join_by_log_mean_exp_at_the_temperature(sd, photos):
    templates = ["a photo of a {}", "a sketch of a {}"]
    both = dz.ELBO(sd, draws=2, template=templates, temperature=3.0).fit(["cat", "dog"])
    single = [
        dz.ELBO(sd, draws=2, template=t).fit(["cat", "dog"]).scores(photos[0]).logits[0]
        for t in templates
    ]
    expected = 3 * np.log(np.mean(np.exp(np.array(single) / 3), axis=0))
    assert np.allclose(both.scores(photos[0]).logits[0], expected)


def test_l1_and_l2_differ_and_l1_is_absolute(oracle):
    backbone, pixels, _ = oracle
    l1 = dz.ELBO(backbone, draws=2, loss="l1").fit(backbone.classes).draw_errors(pixels[0])[0]
    l2 = dz.ELBO(backbone, draws=2).fit(backbone.classes).draw_errors(pixels[0])[0]
    d = torch.Size(backbone.shape).numel()
    assert (l1**2 / d <= l2 + 1e-9).all()  # Cauchy-Schwarz
    assert not np.allclose(l1, l2)


def test_candidates_give_every_image_its_own_words(sd, photos):
    clf = dz.ELBO(sd, draws=2).fit(["cat", "dog", "fox"])
    dense = clf.scores(photos[:2]).logits
    own = clf.scores(photos[:2], candidates=[["dog", "cat"], ["cat", "dog", "fox"]])
    assert np.allclose(own.logits[0, :2], dense[0, [1, 0]], rtol=1e-5)
    assert np.isneginf(own.logits[0, 2]) and own.evals.tolist() == [4, 6]
    assert np.allclose(own.logits[1], dense[1], rtol=1e-5)
    labels = clf.predict(photos[:2], candidates=[["dog", "cat"], ["cat", "dog", "fox"]])
    assert labels[0] in ("dog", "cat")
    with pytest.raises(dz.InputError, match="one list of labels per image"):
        clf.scores(photos[:2], candidates=["cat", "dog"])
    with pytest.raises(dz.InputError, match="Candidates of image 1: Only one label given"):
        clf.scores(photos[:2], candidates=[["cat", "dog"], ["cat"]])
    with pytest.raises(dz.InputError, match="got 1 lists for 2 images"):
        clf.scores(photos[:2], candidates=[["cat", "dog"]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draws": 0}, "draws must be a whole number from 1 to 1,024"),
        ({"weights": "learned"}, "weights must be one of uniform, elbo; got 'learned'"),
        ({"loss": "huber"}, "loss must be one of l2, l1; got 'huber'"),
        ({"t_range": (0.9, 0.1)}, "min < max"),
        ({"t_range": (0.1, 1.5)}, "within"),
        ({"temperature": 0}, "temperature must be a number above 0"),
        ({"batch_size": 0}, "batch_size must be a whole number from 1"),
        ({"template": "a photo"}, "holds one {} where the label goes"),
        ({"priors": [0.5]}, "one positive number per class"),
        ({"priors": {"0": 1.0}}, "priors lack '1'"),
    ],
)
def test_bad_arguments_are_named(oracle, options, message):
    with pytest.raises(dz.InputError, match=message):
        dz.ELBO(oracle[0], **options).fit(["0", "1"])


def test_elbo_refuses_a_clip_model_and_clip_a_diffusion_model(clip, sd):
    with pytest.raises(dz.InputError, match="elbo needs a diffusion model"):
        dz.ELBO(clip).fit(["cat", "dog"])
    with pytest.raises(dz.InputError, match="clip needs a CLIP model"):
        dz.CLIP(sd).fit(["cat", "dog"])
