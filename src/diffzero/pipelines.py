"""`pipeline`: the call that users of transformers know."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from .errors import InputError
from .images import is_one
from .methods import make, method_class
from .options import short
from .prompts import check_labels
from .words import split_labels

TASK = "zero-shot-image-classification"
OTHER_TASKS = {
    *("image-classification", "zero-shot-classification", "zero-shot-object-detection"),
    *("object-detection", "image-to-text", "image-feature-extraction", "text-to-image"),
    *("image-to-image", "image-text-to-text", "text-classification", "feature-extraction"),
}
CALL = ("images", "image", "candidate_labels", "hypothesis_template", "top_k", "batch_size")


class ZeroShotPipeline:
    """A callable that ranks labels for images. Made by `pipeline`.

    Args:
        model: A loaded model.
        method: Name of a method.
        options: The method's own arguments.
        defaults: Arguments of a call that were given beforehand.
    """

    def __init__(
        self,
        model: Any,
        method: str,
        options: dict[str, Any],
        defaults: dict[str, Any] | None = None,
    ) -> None:
        self.model, self.method, self.options = model, method, options
        self.defaults = defaults or {}

    def __call__(
        self,
        images: Any = None,
        candidate_labels: str | Sequence[str] | None = None,
        hypothesis_template: str | Sequence[str] | None = None,
        *,
        image: Any = None,
        top_k: int | None = None,
        batch_size: int | None = None,
        **unknown: Any,
    ) -> list[dict[str, Any]] | list[list[dict[str, Any]]]:
        """Labels with probabilities, best first.

        Args:
            images: One image gives one ranking; a collection, be it of one image, gives a list of
                them. What is an image: `diffzero.load_image` says.
            candidate_labels: The words to choose from, in a list, or in a text as the command
                line takes them: with commas between, a label that holds one in quotes.
            hypothesis_template: One prompt with `{}` for the label, or several.
            image: Another name of `images`.
            top_k: Labels of a ranking, the best ones; all of them if None.
            batch_size: Rows of a network call; the method's own number if None.
            **unknown: Refused.

        Returns:
            `[{"label", "score"}, ...]` sorted, the scores of all labels summing to 1.

        Raises:
            InputError: unusable labels, template or images, or an unknown keyword.
        """
        _refuse_unknown("The pipeline's call", unknown, CALL)
        if (images is None) == (image is None):
            raise InputError("Give the pipeline its images, once: as images= or as image=.")
        sources = images if image is None else image
        given = {
            "candidate_labels": candidate_labels,
            "hypothesis_template": hypothesis_template,
            "top_k": top_k,
            "batch_size": batch_size,
        }
        call = self.defaults | {k: v for k, v in given.items() if v is not None}
        options = dict(self.options)
        if call.get("hypothesis_template") is not None:
            _refuse_template(self.method, _own(self.method))
            options["template"] = call["hypothesis_template"]
        if call.get("batch_size") is not None:
            options["batch_size"] = call["batch_size"]
        names = check_labels(_words(call.get("candidate_labels")))
        best = _count(call.get("top_k"), len(names))
        one = is_one(sources)  # before a generator is used up
        classifier = make(self.method, self.model, options).fit(names)
        rankings = [ranked(names, p)[:best] for p in classifier.predict_proba(sources)]
        return rankings[0] if one else rankings


def pipeline(
    task: Any = None,
    model: Any = None,
    *,
    method: str | None = None,
    device: Any = None,
    dtype: Any = None,
    torch_dtype: Any = None,
    **options: Any,
) -> ZeroShotPipeline:
    """A zero-shot classifier with the calling form of transformers' pipeline.

    `pipeline("zero-shot-image-classification", model="tiny-clip")`, `pipeline("tiny-clip")` and
    `pipeline(model="tiny-clip")` are the same.

    Args:
        task: `zero-shot-image-classification`, the only task; or the model, when that alone is
            given.
        model: What `load` takes; `tiny-sd` if None.
        method: Name of a method, see `diffzero methods`. If None: `clip` for a CLIP model, `elbo`
            for any other.
        device: What `load` takes, a `torch.device`, or the number of a GPU, -1 for the CPU. If
            None, the best there is; a model in memory stays where it is.
        dtype: What `load` takes, or a `torch.dtype`.
        torch_dtype: The older name of `dtype`.
        **options: The method's own arguments, such as `draws=64`, and those of the call that hold
            for every call: `candidate_labels`, `hypothesis_template`, `top_k`, `batch_size`.

    Returns:
        A `ZeroShotPipeline`; called with images it gives a ranking `[{"label", "score"}, ...]` for
        each, the scores of all labels summing to 1.

    Raises:
        InputError: another task, an unknown method or keyword, or a model that cannot be loaded.
    """
    from .models.clip import ClipBackbone

    source = _model(task, model)
    _check_method(method)
    loaded = _loaded(source, _device(device), _dtype(dtype, torch_dtype))
    chosen = method or ("clip" if isinstance(loaded, ClipBackbone) else "elbo")
    defaults = {name: options.pop(name) for name in CALL[2:] if name in options}
    own = _own(chosen)
    known = ("model", "method", "device", "dtype", "torch_dtype", *CALL[2:-1], *own)
    _refuse_unknown(f"Method {chosen}", options, known)
    _check_defaults(chosen, defaults, options, own)
    # Arguments of the wrong kind fail here, not at the call.
    own_batch = {"batch_size": defaults["batch_size"]} if "batch_size" in defaults else {}
    make(chosen, loaded, options | own_batch)
    return ZeroShotPipeline(loaded, chosen, options, defaults)


def _check_defaults(
    method: str, defaults: dict[str, Any], options: dict[str, Any], own: Sequence[str]
) -> None:
    """Refuse arguments of later calls that no call could take.

    Raises:
        InputError: such a one, or two words for the template.
    """
    if defaults.get("hypothesis_template") is not None:
        _refuse_template(method, own)
        if options.get("template") is not None:
            raise InputError("hypothesis_template and template are one argument; give one.")
    if defaults.get("candidate_labels") is not None:
        labels = check_labels(_words(defaults["candidate_labels"]))
        defaults["candidate_labels"] = labels  # a generator would be used up by one call
    _count(defaults.get("top_k"), 1)


def _refuse_template(method: str, own: Sequence[str]) -> None:
    if "template" not in own:
        raise InputError(
            f"Method {method} writes its prompts itself; leave out hypothesis_template."
        )


def _own(method: str) -> list[str]:
    """A method's arguments but for its model."""
    return [p for p in inspect.signature(method_class(method)).parameters if p != "backbone"]


def ranked(names: Sequence[str], probabilities: Any) -> list[dict[str, Any]]:
    """`[{"label", "score"}, ...]`, best first."""
    pairs = sorted(zip(names, map(float, probabilities), strict=True), key=lambda p: -p[1])
    return [{"label": label, "score": score} for label, score in pairs]


def _refuse_unknown(what: str, given: dict[str, Any], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            raise InputError(f"{what} has no argument {name!r}; it has {', '.join(known)}.")


def _model(task: Any, model: Any) -> Any:
    """The model among the two arguments that transformers' pipeline begins with."""
    other = isinstance(task, str) and task in OTHER_TASKS
    if task is not None and model is None and not _is_task(task) and not other:
        return task
    if task is not None and not _is_task(task):
        raise InputError(
            f"The only task is {TASK!r}; got {short(task)}. Give the model alone, or as model=."
        )
    return "tiny-sd" if model is None else model


def _is_task(word: Any) -> bool:
    return isinstance(word, str) and word == TASK


def _check_method(method: Any) -> None:
    if method is None:
        return
    if not isinstance(method, str):
        raise InputError(f"method is the name of a method, such as 'elbo'; got {short(method)}.")
    method_class(method)  # an unknown name fails before the model is loaded


def _loaded(source: Any, device: str | None, dtype: str | None) -> Any:
    """The model, where and as it is wanted.

    Raises:
        InputError: a model in memory that lies elsewhere or has another precision.
    """
    from .models.load import load

    return load(source, device="auto" if device is None else device, dtype=dtype)


def _device(device: Any) -> str | None:
    """A device's name, of what transformers calls one."""
    if device is None or isinstance(device, str):
        return device
    if isinstance(device, int) and not isinstance(device, bool):
        return "cpu" if device < 0 else f"cuda:{device}"
    if hasattr(device, "type") and hasattr(device, "index"):  # a torch.device
        return str(device)
    raise InputError(
        f"device is a name such as 'cpu' or 'cuda:1', a torch.device or the number of a GPU; got "
        f"{short(device)}."
    )


def _dtype(dtype: Any, torch_dtype: Any) -> str | None:
    """A precision's name, of what transformers calls one, under either of its keywords."""
    given = [d for d in (dtype, torch_dtype) if d is not None]
    names = [d if isinstance(d, str) else _torch_name(d) for d in given]
    if len(set(names)) > 1:
        raise InputError(f"dtype and torch_dtype are one argument; got {' and '.join(names)}.")
    return names[0] if names and names[0] != "auto" else None


def _torch_name(dtype: Any) -> str:
    """Name of a `torch.dtype`.

    Raises:
        InputError: it is none.
    """
    import torch

    if not isinstance(dtype, torch.dtype):
        raise InputError(
            f"dtype is a name such as 'float16' or a torch.dtype; got {short(dtype)}."
        )
    return str(dtype).removeprefix("torch.")


def _words(labels: Any) -> Any:
    """Labels as a list where they were given as a text with commas."""
    if labels is None:
        raise InputError("candidate_labels are missing: give a list such as ['cat', 'dog'].")
    if not isinstance(labels, str):
        return labels
    return [word for word in split_labels(labels) if word]


def _count(top_k: Any, labels: int) -> int:
    if top_k is None:
        return labels
    try:
        count = 0 if isinstance(top_k, bool) else int(top_k.__index__())
    except Exception:  # it is no number
        count = 0
    if count < 1:
        raise InputError(f"top_k is a number of labels, at least 1; got {short(top_k)}.")
    return count
