"""Ways to spoil a folder of a checkpoint, each a function of the folder."""

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save, save_file

Spoil = Callable[[Path], Any]
WORKS = "works"
UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
CLIP = "model.safetensors"


@dataclass(frozen=True)
class Kind:
    """One way to spoil a folder.

    Attributes:
        name: Begins with the folder that is spoilt: `sd`, `ddpm`, `if` or `clip`.
        spoil: Does it; may give another path to load than the folder.
        says: What the one sentence must match, or `WORKS`.
        allow_pickle: Load with it.
    """

    name: str
    spoil: Spoil
    says: str
    allow_pickle: bool = False


# -- ways to spoil -------------------------------------------------------------------------


def sets(file: str, **values: Any) -> Spoil:
    """Other values in a JSON file; a key with dots lies within others."""

    def spoil(folder: Path) -> None:
        path = folder / file
        data = json.loads(path.read_text())
        for key, value in values.items():
            inner = data
            *outer, last = key.split("__")
            for name in outer:
                inner = inner[name]
            inner[last] = value
        path.write_text(json.dumps(data))

    return spoil


def without(file: str, *keys: str) -> Spoil:
    """A JSON file that lacks keys."""

    def spoil(folder: Path) -> None:
        data = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({k: v for k, v in data.items() if k not in keys}))

    return spoil


def holds(file: str, content: bytes | str) -> Spoil:
    """A file of this content."""
    raw = content if isinstance(content, bytes) else content.encode()
    return lambda folder: (folder / file).write_bytes(raw)


def gone(*files: str) -> Spoil:
    """Files or folders that are missing."""

    def spoil(folder: Path) -> None:
        for file in files:
            path = folder / file
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    return spoil


def tensors(file: str, change: Callable[[dict[str, torch.Tensor]], Any]) -> Spoil:
    """Weights that are changed in place."""

    def spoil(folder: Path) -> None:
        found = load_file(folder / file)
        change(found)
        save_file({k: v.contiguous() for k, v in found.items()}, folder / file, {"format": "pt"})

    return spoil


def fill(part: str, value: float) -> Callable[[dict[str, torch.Tensor]], Any]:
    """The tensor whose name holds `part` is full of a value."""

    def change(found: dict[str, torch.Tensor]) -> None:
        found[name] = torch.full_like(found[name := _named(found, part)], value)

    return change


def drop(part: str) -> Callable[[dict[str, torch.Tensor]], Any]:
    """Without the tensor whose name holds `part`."""
    return lambda found: found.pop(_named(found, part))


def reshape(part: str) -> Callable[[dict[str, torch.Tensor]], Any]:
    """One row more in the tensor whose name holds `part`."""

    def change(found: dict[str, torch.Tensor]) -> None:
        name = _named(found, part)
        found[name] = torch.cat([found[name], found[name][:1]])

    return change


def retype(part: str, dtype: torch.dtype) -> Callable[[dict[str, torch.Tensor]], Any]:
    """Another dtype of the tensor whose name holds `part`."""

    def change(found: dict[str, torch.Tensor]) -> None:
        found[name] = found[name := _named(found, part)].to(dtype)

    return change


def add(name: str, *shape: int) -> Callable[[dict[str, torch.Tensor]], Any]:
    """A tensor more."""
    return lambda found: found.update({name: torch.zeros(shape)})


def _named(found: dict[str, torch.Tensor], part: str) -> str:
    return next(name for name in sorted(found) if part in name)


def replaced(file: str, make: Callable[[Path], Any]) -> Spoil:
    """Something else where a file was."""

    def spoil(folder: Path) -> None:
        path = folder / file
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        make(path)

    return spoil


def linked(target: str) -> Callable[[Path], Any]:
    """A link to a place."""
    return lambda path: path.symlink_to(target)


def both(*parts: Spoil) -> Spoil:
    """One after the other."""

    def spoil(folder: Path) -> None:
        for part in parts:
            part(folder)

    return spoil


def elsewhere(name: str) -> Spoil:
    """A path beside the folder."""
    return lambda folder: folder.parent / name


def sharded(folder: Path, change: Callable[[dict[str, Any]], Any] = lambda index: None) -> None:
    """The U-Net's weights in two files with an index, which is changed."""
    found = load_file(folder / UNET)
    names = sorted(found)
    files = [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    halves = [names[::2], names[1::2]]
    for file, half in zip(files, halves, strict=True):
        save_file({n: found[n] for n in half}, folder / "unet" / file, {"format": "pt"})
    (folder / UNET).unlink()
    size = sum(t.numel() * 4 for t in found.values())
    index = {
        "metadata": {"total_size": size},
        "weight_map": {n: f for f, half in zip(files, halves, strict=True) for n in half},
    }
    change(index)
    (folder / (UNET + ".index.json")).write_text(json.dumps(index))


def shards(change: Callable[[dict[str, Any]], Any], lost: str | None = None) -> Spoil:
    """Shards with a changed index, one of them missing."""

    def spoil(folder: Path) -> None:
        sharded(folder, change)
        if lost:
            next((folder / "unet").glob(lost)).unlink()

    return spoil


class Runs:
    """Unpickled, it writes a file."""

    def __init__(self, folder: Path) -> None:
        self.file = str(folder / "executed")

    def __reduce__(self) -> Any:
        return Path.touch, (Path(self.file),)


def pickled(folder: Path, file: str) -> None:
    """A file that runs code when it is unpickled."""
    (folder / file).write_bytes(pickle.dumps(Runs(folder)))


def pickle_for(weights: str, name: str) -> Spoil:
    """Weights that are such a file."""
    return lambda folder: ((folder / weights).unlink(), pickled(folder, name))[1]


def code(place: str, name: str = "mine") -> Spoil:
    """A Python file that writes a file when it is imported."""

    def spoil(folder: Path) -> None:
        line = f"import pathlib; pathlib.Path({str(folder / 'executed')!r}).touch()\n"
        (folder / place / f"{name}.py").write_text(line + "class Mine: pass\n")

    return spoil


def header(length: int | None, text: bytes, body: bytes = b"") -> bytes:
    """A safetensors file whose header may lie about its length."""
    return (len(text) if length is None else length).to_bytes(8, "little") + text + body


def swap(a: str, b: str) -> Spoil:
    """Two files in each other's place."""

    def spoil(folder: Path) -> None:
        one, two = (folder / a).read_bytes(), (folder / b).read_bytes()
        (folder / a).write_bytes(two)
        (folder / b).write_bytes(one)

    return spoil


def deep(n: int) -> str:
    """Nested lists."""
    return '{"a": ' + "[" * n + "]" * n + "}"


def configs(prefix: str, file: str) -> list[Kind]:
    """What may be wrong with any JSON file."""
    damaged = "damaged|half-written|JSON"
    return [
        Kind(f"{prefix}-empty", holds(file, b""), damaged),
        Kind(f"{prefix}-list", holds(file, b"[1, 2]"), damaged),
        Kind(f"{prefix}-text", holds(file, b'"text"'), damaged),
        Kind(f"{prefix}-null", holds(file, b"null"), damaged),
        Kind(f"{prefix}-cut", lambda f: (f / file).write_bytes((f / file).read_bytes()[:-9]),
             damaged),
        Kind(f"{prefix}-not-utf-8", holds(file, b'{"a": "\xff\xfe"}'), damaged),
        Kind(f"{prefix}-utf-16", holds(file, '{"a": 1}'.encode("utf-16")), damaged),
        Kind(f"{prefix}-deep", holds(file, deep(100_000)), damaged),
        Kind(f"{prefix}-twice", lambda f: (f / file).write_text(
            '{"twice": 8, "twice": 9, ' + (f / file).read_text().strip()[1:]), "'twice' twice"),
        Kind(f"{prefix}-directory", replaced(file, Path.mkdir), "missing|damaged|no |lacks"),
        Kind(f"{prefix}-pipe", replaced(file, os.mkfifo), "missing|damaged|no |lacks"),
        Kind(f"{prefix}-dangling", replaced(file, linked("/nowhere/at/all")), "missing|damaged|no |lacks"),
    ]  # fmt: skip


def values(part: str, file: str, table: list[tuple[str, Any, str]]) -> list[Kind]:
    """One value of a JSON file each: key, value, what must be said."""
    return [
        Kind(f"{part}-{key}={json.dumps(value)[:24]}", sets(file, **{key: value}), says)
        for key, value, says in table
    ]


NAN, INF = float("nan"), float("inf")
BOUNDS = "out of all bounds|must be|is not|does not|should be|cannot"


def weights(prefix: str, file: str, part: str, shaped: str) -> list[Kind]:
    """What may be wrong with any network's weights; `part` is in a tensor's name."""
    lost = re.escape(shaped)
    whole = r"damaged or half-written"
    return [
        Kind(f"{prefix}-weights-gone", gone(file), "no weights"),
        Kind(f"{prefix}-weights-cut", lambda f: (f / file).write_bytes(
            (f / file).read_bytes()[:-100]), whole),
        Kind(f"{prefix}-weights-empty", holds(file, b""), whole),
        Kind(f"{prefix}-lacks-a-tensor", tensors(file, drop(part)), f"lacks.*{lost}"),
        Kind(f"{prefix}-other-shape", tensors(file, reshape(part)), f"shape.*{lost}|{lost}.*shape"),
        Kind(f"{prefix}-mistyped", tensors(file, retype(part, torch.int64)),
             f"{lost}.*(int|I64)|(int|I64).*{lost}"),
        Kind(f"{prefix}-nan", tensors(file, fill(part, NAN)), f"NaN.*{lost}|{lost}.*NaN"),
        Kind(f"{prefix}-infinite", tensors(file, fill(part, INF)), f"NaN.*{lost}|{lost}.*NaN"),
        Kind(f"{prefix}-no-tensors", holds(file, save({}, {"format": "pt"})), "lack"),
    ]  # fmt: skip


def made(path: Path, make: Callable[[Path], Any]) -> Path:
    make(path)
    return path
