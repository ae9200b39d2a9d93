"""`diffzero reproduce all`: every experiment, one page, resumable."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import DiffzeroError, InputError
from ..evaluate.config import versions, weights_hash
from ..evaluate.page import template
from ..evaluate.store import as_sentence, write_json
from ..models.cards import cards
from . import (
    EXPERIMENTS,
    ON_ANY,
    ON_TEXT,
    ON_TRAIN,
    Setting,
    default_model,
    make_setting,
    reproduce,
)
from .imagen_table import BESIDE

KINDS = ("png", "json")  # of the files of a result
BUDGETS = {"small": 10, "medium": 60, "large": 360}  # images an experiment


@cache
def _weights(model: str) -> str:
    """The weights of a model in a folder, which may be trained on under the same name."""
    card = cards().get(model)
    with suppress(OSError, ValueError, RuntimeError):  # no path: loading it will say so
        folder = Path(card.source if card else model).expanduser()
        if folder.is_dir():
            return weights_hash(folder)
    return model


@dataclass(frozen=True)
class Everything:
    """All experiments under one setting.

    Attributes:
        model: For every experiment; if None, the bundled one that fits each.
        clip: The baseline.
        data: `NAME=SOURCE` of the images.
        out: Folder of pictures, numbers and `index.html`.
        budget: `small`, `medium` or `large`: 10, 60 or 360 images an experiment.
        seed: Of all noise.
        device: For the models.
    """

    model: str | None
    clip: str
    data: str
    out: Path
    budget: str
    seed: int
    device: str

    def run(self, log: Callable[[str], None]) -> None:
        """Make what is not there yet, then the page.

        Raises:
            InputError: an unknown budget, or a folder that cannot be written.
            DiffzeroError: at the end, if an experiment failed; the others are done.
        """
        if self.budget not in BUDGETS:
            raise InputError(f"--budget takes {', '.join(BUDGETS)}; got {self.budget!r}.")
        with as_sentence(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
        done, settings = self._done(), dict[tuple[str, bool, bool], Setting]()
        failed = {}
        for name in EXPERIMENTS:
            wanted = self._wanted(name)
            if self._there(name, done, wanted):
                log(f"{name}: done before")
                continue
            began = time.perf_counter()
            try:
                self._make(name, settings)
            except Exception as error:  # one broken experiment must not cost the others
                kind = "" if isinstance(error, DiffzeroError) else f"{type(error).__name__}: "
                failed[name] = f"{kind}{error}"
                log(f"{name}: failed: {failed[name]}")
                continue
            seconds = round(time.perf_counter() - began, 1)
            done[name] = wanted | {"seconds": seconds, "files": self._digest(name)}
            with as_sentence(self.out):
                write_json(self.out / "done.json", done)
            log(f"{name}: {seconds:.0f} s")
        with as_sentence(self.out):
            (self.out / "index.html").write_text(self._page(done, failed), encoding="utf-8")
        print(self.out / "index.html")
        if failed:
            raise DiffzeroError(
                f"{len(failed)} of {len(EXPERIMENTS)} experiments failed: {', '.join(failed)}. "
                "The others are done; the same command tries these again."
            )

    def _make(self, name: str, settings: dict[tuple[str, bool, bool], Setting]) -> None:
        model = self.model or default_model(name)
        # Some come with a baseline, some with training images.
        key = (model, name in ON_TEXT | ON_ANY, name in ON_TRAIN)
        if key not in settings:
            settings[key] = make_setting(
                name, model, self.data, out=self.out, limit=BUDGETS[self.budget], seed=self.seed,
                device=self.device, clip=self.clip,
            )  # fmt: skip
        reproduce(name, settings[key])

    def _wanted(self, name: str) -> dict[str, Any]:
        """What must be the same for a result to be this one."""
        same = {k: v for k, v in asdict(self).items() if k not in ("out", "device", "model")}
        model = self.model or default_model(name)
        beside = [BESIDE] if name == "imagen-table" else []
        weights = [_weights(m) for m in (model, self.clip, *beside)]
        return same | {"model": model, "weights": weights, "diffzero": versions()["diffzero"]}

    def _digest(self, name: str) -> str:
        """Of a result's files: an experiment run alone may have written others over them."""
        found = hashlib.blake2b(digest_size=16)
        for kind in KINDS:
            found.update((self.out / f"{name}.{kind}").read_bytes())
        return found.hexdigest()

    def _done(self) -> dict[str, Any]:
        path = self.out / "done.json"
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        except ValueError:
            raise InputError(f"{path}: damaged; remove it to make everything again.") from None

    def _there(self, name: str, done: dict[str, Any], wanted: dict[str, Any]) -> bool:
        if not all((self.out / f"{name}.{kind}").exists() for kind in KINDS):
            return False
        made = {k: v for k, v in done.get(name, {}).items() if k not in ("seconds", "files")}
        return made == wanted and done[name].get("files") == self._digest(name)

    def _page(self, done: dict[str, Any], failed: dict[str, str]) -> str:
        sections = []
        for name, what in EXPERIMENTS.items():
            picture, numbers = self.out / f"{name}.png", {}
            there = name in done and name not in failed
            if there:
                numbers = json.loads((self.out / f"{name}.json").read_text(encoding="utf-8"))
            sections.append(
                {
                    "name": name,
                    "what": what,
                    "failed": failed.get(name),
                    "model": done[name]["model"] if there else None,
                    "seconds": done[name]["seconds"] if there else None,
                    "verdict": numbers.get("verdict"),
                    "numbers": json.dumps(numbers, indent=1, ensure_ascii=False),
                    "picture": base64.b64encode(picture.read_bytes()).decode() if there else None,
                }
            )
        return template("everything.html.j2", Path(__file__).parent).render(
            sections=sections, budget=self.budget, images=BUDGETS[self.budget], data=self.data,
            seed=self.seed, versions=versions(), made=time.strftime("%Y-%m-%d %H:%M"),
        )  # fmt: skip
