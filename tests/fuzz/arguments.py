"""Values of every kind for every argument: an answer or an `InputError`, soon, and no NaN.

    python -m fuzz.arguments --seed 3 --count 10000     # from tests/

Every case is made from the seed and its number alone, so that `--start N --count 1` repeats it.
"""

import argparse
import datetime
import decimal
import fractions
import inspect
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import diffzero as dz
from diffzero.errors import DiffzeroError, InputError

SECONDS = 10  # of the processor's time, so that what else runs beside does not count
CLASSES = [
    *(
        dz.ELBO,
        dz.Weighted,
        dz.Likelihood,
        dz.LatentKNN,
        dz.NoiseDenoise,
        dz.NoiseDenoiseVote,
        dz.Race,
    ),
    *(dz.CrossAttention, dz.TextualInversion, dz.CLIP, dz.Shortlist, dz.Blend, dz.HandOver),
    dz.Hierarchy,
]
SMALL = {"steps": 2, "max_draws": 4, "draws": 2, "probes": 1, "augmentations": 1}
WORDS = ["cat", "dog", "red fox"]


class Hostile:
    """Whatever is asked of it, it raises."""

    def _raise(self, *_: Any) -> Any:
        raise RuntimeError("hostile")

    __repr__ = __str__ = __eq__ = __len__ = __iter__ = __bool__ = __float__ = __int__ = _raise
    __hash__ = __index__ = __lt__ = __getitem__ = __contains__ = _raise  # type: ignore[assignment]


class Loud(str):
    """A text that says another thing of itself."""

    def __repr__(self) -> str:
        raise RuntimeError("loud")


def scalars() -> list[Any]:
    """Values that are one thing."""
    numbers = [0, 1, 2, 3, 5, 7, 64, 100, -1, -7, 10**4, 10**6, 2**31, 2**63, 2**64, 10**30]
    numbers += [10**400, 0.0, -0.0, 0.5, 1.0, 1.5, 2.0, 1e-300, 1e300, -1e300, 5e-324, 1e6]
    numbers += [float("inf"), float("-inf"), float("nan"), True, False, 1 + 2j, None]
    numbers += [np.int8(3), np.uint8(200), np.int32(4), np.int64(2), np.uint64(2**63), np.bool_(1)]
    numbers += [np.float16(0.5), np.float32(0.25), np.float64("nan"), np.float32("inf")]
    numbers += [np.longdouble(1), np.complex64(1), np.datetime64("NaT"), np.str_("cat")]
    texts = ["", " ", "cat", "a {}", "{} {}", "{}", "{", "auto", "cpu", "cuda:9", "mps", "float16"]
    texts += ["mean", "eps", "inf", "nan", "1e999", "\0", "\ud800", "x" * 100_000, "\n", "é", "🦊"]
    texts += ["elbo", "clip", "tiny", "../..", "/etc/passwd", "~nobody/x", "a/b/c", "%s%n", "up_*"]
    others = [b"cat", bytearray(b"\xff"), memoryview(b"abc"), ..., NotImplemented, object(), type]
    others += [datetime.datetime(2020, 1, 1), datetime.timedelta(1), decimal.Decimal("0.5")]
    others += [decimal.Decimal("NaN"), fractions.Fraction(1, 3), Hostile(), Loud("cat"), len, str]
    others += [Path("nowhere"), Path(), torch.float16, torch.device("cpu"), torch.tensor(3.0)]
    others += [torch.tensor([1.0, 2.0]), slice(1), range(3), range(10**9), dz.ELBO, dz, Hostile]
    return numbers + texts + others


def value(rng: random.Random, depth: int = 0) -> Any:
    """A value of any kind."""
    kind = rng.randrange(12 if depth < 3 else 6)
    if kind < 6:
        return rng.choice(scalars())
    many = [value(rng, depth + 1) for _ in range(rng.choice([0, 1, 2, 2, 3, 4]))]
    match kind:
        case 6:
            return many
        case 7:
            return tuple(many)
        case 8:
            return {rng.choice(["cat", 1, None, "x"]): v for v in many}
        case 9:
            shape = rng.choice([(0,), (1,), (2,), (4,), (2, 2), (1, 4), (), (2, 2, 2)])
            return np.array(rng.choice([0.5, float("nan"), 3, -1, 1e300])) * np.ones(shape)
        case 10:
            return rng.choice([lambda: iter(many), lambda: (v for v in many), lambda: {1, "a"}])()
        case _:
            pick = rng.choice([[0.2, 0.8], [1, 2], [0.8, 0.2], [1e-9, 1], [-5, 5], [0, 1], WORDS])
            return rng.choice([list, tuple, np.array])(pick)


def numbers(rng: random.Random) -> Any:
    """A number that an argument may well take."""
    return rng.choice([rng.randrange(1, 9), rng.random(), 10 ** rng.uniform(-9, 9), 1, 0.5])


def likely(rng: random.Random, check: Any) -> Any:
    """A value that an argument with this check may well take."""
    says = "" if check is None else check.says
    if says.startswith("one of "):
        return rng.choice(says.removeprefix("one of ").split(", or ")[0].split(", "))
    if "(min, max)" in says:
        return tuple(sorted(10 ** rng.uniform(-6, 1) * rng.choice([-1, 1, 1]) for _ in range(2)))
    if says.startswith("a list"):
        return [rng.random() for _ in range(rng.randrange(1, 4))]
    if "text" in says:
        return rng.choice(["a {}", ["a {}", "the {}"], "short", "photo", "mean", "up_*", "cat"])
    if "class" in says:
        return [rng.random() for _ in range(rng.choice([3, 3, 4]))]
    return rng.random() < 0.5 if "True" in says else numbers(rng)


FAMILIES = ["sdxl", "sd3", "flux", "pixart", "dit", "sana", "lumina2", "z_image", "flux2"]
# Made for 1,024 pixels, of which one evaluation takes seconds however narrow the network is.
LARGE = ("flux", "flux2", "z_image")
PHOTOS = Path("data") / "cat" / "0.png"


class World:
    """Models, images, and a folder of a few files and a finished run, made once."""

    def __init__(self, folder: Path) -> None:
        from conftest import CAPTIONS, oracle_problem, sd_pipeline
        from diffzero.train import tokenizer

        self.folder = folder
        self.oracle, pixels, _ = oracle_problem(dz.LogSNRLinearSchedule(-6, 8), n=2)
        self.pixels = list(pixels)
        tokens = tokenizer.build(CAPTIONS, folder / "tokens", 16)
        self.sd, self.clip = dz.load(sd_pipeline(tokens)), dz.load("tiny-clip")
        self.photos = [np.full((20, 24, 3), 40 * i, np.uint8) + np.arange(3, dtype=np.uint8)
                       for i in range(2)]  # fmt: skip
        for i, photo in enumerate(self.photos):
            for word in ("cat", "dog"):
                (folder / "data" / word).mkdir(parents=True, exist_ok=True)
                Image.fromarray(photo + i).save(folder / "data" / word / f"{i}.png")
        self._families: dict[str, Any] = {}
        self._run: Path | None = None

    def family(self, name: str) -> Any:
        """A model of a newer family, tiny, made when it is first asked for."""
        import families

        if name not in self._families:
            if name == "dit":
                made = dz.load(families.dit_pipeline(4), classes=[*WORDS, "bag"])
            else:
                side = 16 if name in LARGE else None
                made = dz.load(getattr(families, f"{name}_pipeline")(), resolution=side)
            self._families[name] = made
        return self._families[name]

    def run(self) -> Path:
        """A finished run that kept its draws."""
        if self._run is None:
            from typer.testing import CliRunner

            from diffzero.app.cli import app

            self._run = self.folder / "finished"
            data, out = str(self.folder / "data"), str(self._run)
            words = ["evaluate", "--data", data, "--out", out, "--set", "draws=2", "--keep-draws"]
            assert CliRunner().invoke(app, words).exit_code == 0
        return self._run

    def choose(self, rng: random.Random, cls: type) -> tuple[Any, list[str], list[Any]]:
        """A model for a class, with words and images."""
        if cls is dz.CLIP:
            return self.clip, WORDS, self.photos
        if rng.random() < 0.2:
            # The adaptive solver of a likelihood takes 400 evaluations before it gives up.
            fitting = [f for f in FAMILIES if cls is not dz.Likelihood or f not in LARGE]
            return self.family(rng.choice(fitting)), WORDS, self.photos
        # An exact trace of a likelihood goes back through the network for each of 256 numbers.
        often = rng.random() < 0.3 and cls is not dz.Likelihood
        if cls in (dz.CrossAttention, dz.TextualInversion) or often:
            return self.sd, WORDS, self.photos
        return self.oracle, ["0", "1", "2", "3"], self.pixels


# -- what is called ------------------------------------------------------------------------


def constructor(rng: random.Random, world: World) -> Callable[[], Any]:
    """A class with one or two odd arguments, fitted, on an image."""
    cls = rng.choice(CLASSES)
    model, words, images = world.choose(rng, cls)
    names = [field.name for field in fields(cls)]
    given = {name: SMALL[name] for name in names if name in SMALL}
    if "backbone" in names:
        given["backbone"] = model
    else:
        one = dz.ELBO(world.sd, draws=1)
        pair = {"first": dz.CLIP(world.clip), "then": one, "members": [one, dz.CLIP(world.clip)],
                "groups": {"animal": ["cat", "dog"]}}  # fmt: skip
        given |= {name: pair[name] for name in names if name in pair}
        words, images = WORDS, world.photos
    for name in rng.sample(names, rng.choice([1, 1, 2])):
        check = next(f.metadata.get("check") for f in fields(cls) if f.name == name)
        given[name] = likely(rng, check) if rng.random() < 0.4 else value(rng)
    return lambda: _numbers_of(cls(**given).fit(words), images[:1])


def _numbers_of(fitted: Any, images: list[Any]) -> Any:
    scores = fitted.scores(images)
    return [scores.logits, fitted.probabilities(scores), fitted.log_probabilities(scores)]


def changed(rng: random.Random, world: World) -> Callable[[], Any]:
    """An argument that changes after `fit`."""
    cls = rng.choice(CLASSES[:10])
    model, words, images = world.choose(rng, cls)
    small = {f.name: SMALL[f.name] for f in fields(cls) if f.name in SMALL}
    name, new = rng.choice([f.name for f in fields(cls)]), value(rng)

    def call() -> Any:
        fitted = cls(model, **small).fit(words)
        return _numbers_of(fitted.set_params(**{name: new}), images[:1])

    return call


def fitting(rng: random.Random, world: World) -> Callable[[], Any]:
    """Odd classes, or odd labels of images."""
    clf = dz.CLIP(world.clip)
    labels = value(rng)
    if rng.random() < 0.4:
        labels = [value(rng, 2) for _ in range(4)] + rng.choice([[], ["cat", "dog"]])
    call = rng.choice([
        lambda: clf.fit(labels), lambda: clf.fit(None, labels), lambda: clf.fit([1] * 4, labels),
        lambda: clf.fit(labels, labels), lambda: clf.fit(labels, ["cat", "dog"]),
    ])  # fmt: skip
    return lambda: call().predict_proba(world.photos[:1])


def scoring(rng: random.Random, world: World) -> Callable[[], Any]:
    """Odd images, candidates or answers before `fit`."""
    clf = dz.CLIP(world.clip)
    if rng.random() < 0.5:
        clf = clf.fit(WORDS)
    odd, more, names = value(rng), value(rng), [WORDS, ["cat", "dog"]]
    progress = None if callable(odd) else odd  # what a function of the caller's raises is theirs
    return rng.choice([
        lambda: clf.scores(odd), lambda: clf.scores(world.photos, odd),
        lambda: clf.scores(world.photos, [odd, more]), lambda: clf.predict(odd, [WORDS]),
        lambda: clf.predict_proba([odd, more]), lambda: clf.scores(world.photos, names, progress),
        lambda: clf.score(world.photos, odd), lambda: clf.set_output(transform=odd),
        lambda: clf.predict_log_proba(world.photos, odd),
        lambda: clf.scores(world.photos, [WORDS, odd]).logits[0],
    ])  # fmt: skip


def loading(rng: random.Random, world: World) -> Callable[[], Any]:
    """`load` with odd arguments."""
    given = {
        name: value(rng)
        for name in rng.sample(
            ["device", "dtype", "allow_pickle", "resolution", "classes", "text_device"],
            rng.choice([0, 1, 2]),
        )
    }
    own = [world.sd, world.clip, world.oracle, world.family(rng.choice(FAMILIES))]
    source = rng.choice(own) if given else value(rng)
    return lambda: dz.load(source, **given) and None  # fmt: skip


def piping(rng: random.Random, world: World) -> Callable[[], Any]:
    """`pipeline` with odd arguments, and a call of it."""
    making = [*inspect.signature(dz.pipeline).parameters][:-1]
    making += ["candidate_labels", "hypothesis_template", "top_k", "batch_size", "draws", "priors"]
    calling = ["images", "candidate_labels", "hypothesis_template", "image", "top_k", "batch_size"]
    first = {"model": rng.choice([world.clip, world.sd])}
    then: dict[str, Any] = {"images": world.photos, "candidate_labels": WORDS}
    for name in rng.sample(making, rng.choice([0, 1, 1])):
        first[name] = value(rng)
    for name in rng.sample(calling, rng.choice([0, 1, 1, 2])):
        then[name] = value(rng)
    if first["model"] is world.sd:
        first.setdefault("draws", 1)
    return lambda: [r["score"] for r in _flat(dz.pipeline(**first)(**then))]


def _flat(rankings: Any) -> list[Any]:
    return [r for one in rankings for r in (one if isinstance(one, list) else [one])]


TEXTS = [
    *("", " ", "3", "-1", "0", "inf", "nan", "1e999", "9" * 400, "cat,dog", "cat", ",", '"', "a=b"),
    *("draws=1", "draws=inf", "draws=True", "draws=[1]", "draws=" + "9" * 99, "seed=None", "x=1"),
    *("temperature=nan", "template={}", "template=3", "template=['a {}']", "priors=[1,2]", "=", "é"),
    *("tiny-clip:2", "tiny-clip:0", ":", "tiny-clip", "nowhere", "balanced:2", "balanced:x", "\x7f"),
    *("fog:3", "fog:9", "fog", "cat=0.7,dog=0.3", "cat=nan,dog=1", "cpu", "cuda:9", "float16", "🦊"),
    *("(" * 300, "[" * 5000, "draws=" + "(" * 300, "x" * 5000, "cifar10", "test", "\ud800", "1,2,3"),
    *("[{}]", "a {} {}", "clip", "elbo", "weighted", "resolution", "16", "100000000", "0x10", "1.5"),
]  # fmt: skip


def commanding(rng: random.Random, world: World) -> Callable[[], Any]:
    """A command with odd options, or an odd word in place of its argument, in this process."""
    import typer

    from diffzero.app.cli import app

    out, photo = str(world.folder / f"out-{rng.random()}"), str(world.folder / PHOTOS)
    name = rng.choice(["classify", "classify", "evaluate", *STARTS])
    words = [w.format(photo=photo, out=out, data=world.folder / "data", run=world.run())
             for w in STARTS[name]]  # fmt: skip
    if rng.random() < 0.2 and words and not words[0].startswith("--"):
        words[0] = rng.choice(TEXTS)
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    options = [o for o in command.params if o.opts[0].startswith("--")]
    options = [o for o in options if o.opts[0] not in LONG]
    for option in rng.sample(options, min(len(options), rng.choice([0, 1, 1, 2]))):
        words += [option.opts[0]] if option.is_flag else [option.opts[0], rng.choice(TEXTS)]
    return lambda: _invoke(app, [name, *words])


STARTS = {
    "classify": ["{photo}", "--labels", "cat,dog", "--model", "tiny-clip"],
    "evaluate": ["--data", "{data}", "--out", "{out}", "--model", "tiny-clip"],
    "report": ["{run}"], "rescore": ["{run}"], "calibrate": ["{run}", "--bins", "1"],
    "explain": ["{photo}", "--labels", "cat,dog", "--set", "draws=2"],
    "models": ["tiny-sd"], "methods": ["elbo"], "doctor": [], "fetch": ["nowhere"],
    "scenes": ["--out", "{out}", "--train", "2", "--validation", "0", "--size", "16"],
    # What these do in earnest takes minutes: their data are not there, so that it is not begun.
    "train": ["tiny-clip", "--out", "{out}", "--data", "x=./absent", "--no-digits"],
    "reproduce": ["noise-level", "--data", "x=./absent", "--out", "{out}"],
    "demo": ["./nowhere.png", "--labels", "cat,dog", "--limit", "1", "--draws", "1"],
}  # fmt: skip
# Options whose odd values are a large order rather than an odd one, or start other processes.
LONG = {"--workers", "--ray", "--model", "--help", "--train", "--validation", "--digits"}


def serving(rng: random.Random, world: World) -> Callable[[], Any]:
    """The page's server with odd addresses and models; it is closed at once."""
    from diffzero.app.serve import make_server

    given: dict[str, Any] = {"models": ["tiny-clip"], "clip": None, "host": "127.0.0.1", "port": 0}
    for name in rng.sample([*given, "device", "dtype"], rng.choice([1, 1, 2])):
        text = rng.choice(TEXTS)
        ports = [0, 1, 7860, 65535]  # what the command lets through
        given[name] = {"models": [text], "port": rng.choice(ports)}.get(name, text)
    return lambda: make_server(**given).server_close()


def _invoke(app: Any, words: list[str]) -> None:
    from typer.testing import CliRunner

    from diffzero.app.cli import sentence

    result = CliRunner().invoke(app, words)
    error = result.exception
    if isinstance(error, OSError) and "cannot be written" in sentence(error):
        raise InputError(sentence(error)) from error  # as `main` says it
    if error is not None and not isinstance(error, SystemExit):
        raise error
    for line in result.stdout.splitlines():
        if line.startswith("{"):
            json.loads(line, parse_constant=_no_constant)


def _no_constant(word: str) -> Any:
    raise AssertionError(f"{word} in JSON")


KINDS: list[tuple[Callable[[random.Random, World], Callable[[], Any]], int]] = [
    (constructor, 50), (changed, 10), (fitting, 15), (scoring, 10), (loading, 6), (piping, 7),
    (commanding, 6), (serving, 1),
]  # fmt: skip


# -- what becomes of them ------------------------------------------------------------------


class Hang(BaseException):
    """It took too long; nothing in between may catch it."""


def _hang(*_: Any) -> None:
    raise Hang


def outcome(call: Callable[[], Any]) -> str:
    """`ok`, `InputError`, or what was wrong."""
    signal.alarm(6 * SECONDS)
    try:
        found = call()
    except DiffzeroError as error:
        plain = isinstance(error, InputError) and "\n" not in str(error)
        return "InputError" if plain and len(str(error)) < 900 else f"unclear: {error!s:.300}"
    except Hang:
        return "hangs"
    except Exception as error:
        steps = traceback.extract_tb(error.__traceback__)
        own = [s for s in steps if "diffzero" in s.filename and "/fuzz/" not in s.filename]
        where = " < ".join(f"{Path(s.filename).name}:{s.lineno}" for s in (own or steps)[-3:])
        return f"{type(error).__name__} at {where}: {str(error)[:200]}"
    finally:
        signal.alarm(0)
    odd = [a for a in found if not np.isfinite(a).all()] if isinstance(found, list) else []
    return "not finite" if odd else "ok"


def survey(seed: int, start: int, count: int, mark: Path | None) -> dict[str, Any]:
    """Counts of outcomes, those that are bad, and the longest time of one."""
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, _hang)
    kinds, weights = zip(*KINDS, strict=True)
    outcomes: Counter[str] = Counter()
    bad, slowest = [], (0.0, "")
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        os.chdir(folder)
        for index in range(start, start + count):
            rng = random.Random(seed * 10**9 + index)
            kind = rng.choices(kinds, weights)[0]
            if mark is not None:
                mark.write_text(f"{index} {kind.__name__}")
            call = kind(rng, world)
            began = time.process_time()
            what = outcome(call)
            slowest = max(slowest, (time.process_time() - began, f"{index} {kind.__name__}"))
            outcomes[what if what in ("ok", "InputError") else "bad"] += 1
            if what not in ("ok", "InputError"):
                bad.append(f"{index} {kind.__name__}: {what}")
    return {"outcomes": dict(outcomes), "bad": bad[:60], "seconds": round(slowest[0], 2),
            "slowest": slowest[1]}  # fmt: skip


def main() -> None:
    """Survey a range of cases and print what became of them as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--mark", type=Path, help="file that names the case in progress")
    chosen = parser.parse_args()
    mark = None if chosen.mark is None else chosen.mark.resolve()
    resource.setrlimit(resource.RLIMIT_AS, (12 * 2**30, 12 * 2**30))
    json.dump(survey(chosen.seed, chosen.start, chosen.count, mark), sys.stdout)


if __name__ == "__main__":
    main()
