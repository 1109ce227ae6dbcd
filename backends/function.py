"""A function as a target: any callable from a batch of inputs to their scores, or a scikit-learn estimator."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from backends.base import Access, BackendInfo, Chip, InputError, Sending, TargetError, one_line, raised
from backends.datasets.form import Form

__all__ = ["FunctionBackend", "function_of", "is_estimator"]

Input = Literal["torch", "numpy"]


class FunctionBackend:
    """``function`` called with batches of inputs in the ``form`` of the user's data; strict access.

    Args:
        name: its name in messages.
        function: takes a batch (n, ...) and returns scores (n, classes): logits or probabilities, as an array, a tensor or nested
            lists. If it has a parameter ``chip``, that gets the `Chip` of the query; otherwise chips make no difference.
        image_shape: shape of one input.
        classes: number of classes.
        form: how an input in [-1, 1] is handed over.
        kind: whether it takes a ``torch`` tensor or a ``numpy`` array.
        flat: inputs are rows (n, features).
        limit: inputs in a batch at most.
        repeatable: whether the same query gives the same response.
    """

    def __init__(
        self, name: str, function: Callable[..., Any], image_shape: tuple[int, ...], classes: int, form: Form = Form(),  # noqa: B008
        kind: Input = "torch", flat: bool = False, limit: int | None = None, repeatable: bool = True,
    ) -> None:  # fmt: skip
        self.info = BackendInfo(name, Access.LOGITS, image_shape, classes, form.eight_bits, limit, repeatable)
        self._function, self._form, self._kind, self._flat = function, form, kind, flat
        self._takes_chip = _has_parameter(function, "chip")

    def query(self, images: Tensor, chip: Chip, sending: Sending) -> Tensor:
        """See `backends.base.Backend`; in parts if the function takes fewer inputs in one batch."""
        responses = []
        for part in images.detach().split(self.info.limit or max(len(images), 1)):
            sending(len(part))
            responses.append(self._checked(self._called(part, chip), len(part)))
        return torch.cat(responses)

    def close(self) -> None:
        """Nothing is held open."""

    def _called(self, images: Tensor, chip: Chip) -> Any:
        inputs = self._form.outward(images.cpu()).clone()  # the function may change its inputs
        inputs = inputs.flatten(1) if self._flat else inputs
        options = {"chip": chip} if self._takes_chip else {}
        try:
            with torch.no_grad():
                return self._function(inputs.numpy() if self._kind == "numpy" else inputs, **options)
        except Exception as error:  # a function of others may raise anything
            words = raised(error)
            raise TargetError(f"`target` {self.info.name} raised {words}") from error

    def _checked(self, response: Any, count: int) -> Tensor:
        name, expected = self.info.name, (count, self.info.classes)
        try:
            scores = _numbers(response)
        except (TypeError, ValueError, RuntimeError) as error:
            words = one_line(error)
            raise TargetError(f"`target` {name} must return an array of numbers {expected}: {words}") from error
        if tuple(scores.shape) != expected:
            hint = ": return a score for every class, not a label" if tuple(scores.shape) in ((count,), (count, 1)) else ""
            raise TargetError(
                f"`target` {name} must return scores {expected} for {count} inputs, got the shape {tuple(scores.shape)}{hint}"
            )
        return scores


def function_of(target: object, name: str) -> Callable[..., Any]:
    """``target`` as a function from inputs to scores; ``name`` is for messages.

    A scikit-learn estimator becomes its ``predict_proba``, else its ``decision_function``; that of two classes, one number ``d``
    for an input, becomes the scores ``(-d / 2, d / 2)``. A network is used as it is in evaluation mode, without bit errors.

    Raises:
        InputError: it cannot be called.
    """
    if isinstance(target, nn.Module):
        return copy.deepcopy(target).eval()
    if is_estimator(target):
        probabilities = getattr(target, "predict_proba", None)
        return probabilities if probabilities is not None else _decisions(target)
    if callable(target) and not isinstance(target, type):
        return target
    if hasattr(target, "predict"):
        raise InputError(f"`target` {name} has neither predict_proba nor decision_function: give an estimator that has one")
    raise InputError(f"`target` {name} must be callable, got {type(target).__name__}: give a function from inputs to scores")


def is_estimator(target: object) -> bool:
    """Whether ``target`` scores inputs as classifiers of scikit-learn do."""
    return not isinstance(target, type | nn.Module) and any(
        callable(getattr(target, name, None)) for name in ("predict_proba", "decision_function")
    )


def _decisions(estimator: Any) -> Callable[[Any], Any]:
    def scores(inputs: Any) -> Any:
        found = np.asarray(estimator.decision_function(inputs))
        return np.stack([-found / 2, found / 2], 1) if found.ndim == 1 else found

    return scores


def _numbers(response: Any) -> Tensor:
    """``response`` as a float32 tensor."""
    if isinstance(response, list | tuple) and response and all(isinstance(row, Tensor) for row in response):
        response = torch.stack(list(response))
    if isinstance(response, Tensor):
        if response.is_complex():
            raise TypeError("got complex numbers")
        return response.detach().cpu().float()
    array = np.asarray(response)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"got {type(response).__name__} of {array.dtype}")
    with np.errstate(over="ignore"):  # infinities are refused by name
        return torch.from_numpy(np.array(array, np.float32))


def _has_parameter(function: Callable[..., Any], name: str) -> bool:
    try:
        return name in inspect.signature(function).parameters
    except (TypeError, ValueError):  # some built-in functions have no signature
        return False
