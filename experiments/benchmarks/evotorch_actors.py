"""EvoTorch's SNES with two actors on the loss of a fuse: steps a second, and the bytes that travel."""

from __future__ import annotations

import pickle
from typing import Any

import torch
from torch import Tensor, nn

from backends.base import NOMINAL
from bbfuse.fuse.module import Fuse
from bbfuse.seeds import stream
from experiments.benchmarks.workers import PEERS, backend_of, owned, step_seconds

__all__ = ["CountedActor", "FuseLoss", "evotorch_row"]


class FuseLoss:
    """EvoTorch's fitness: the loss of the fuse with these parameters on one batch."""

    def __init__(self, name: str) -> None:
        self._name, case = name, PEERS[name]
        torch.set_num_threads(1)
        self._backend = backend_of(case["target"], case["shape"], None)
        data = owned(case["shape"])
        self.fuse = Fuse(case["generator"], case["shape"], stream(0, "fuse"))
        self.fuse.calibrate(data.images)
        self._images, self._labels = data.images[: case["batch"]], data.labels[: case["batch"]]

    def __reduce__(self) -> tuple[Any, ...]:  # an actor makes its own
        return FuseLoss, (self._name,)

    def __call__(self, vector: Tensor) -> Tensor:
        """The loss with these parameters."""
        with torch.no_grad():
            logits = self._backend.query(self.fuse.at(vector, self._images), NOMINAL, lambda _: None)
            return nn.functional.cross_entropy(logits, self._labels)


def evotorch_row(name: str, steps: int) -> dict[str, Any]:
    """SNES with two actors; each task's arguments and results are pickled to see how large they are."""
    import evotorch.core
    import ray
    from evotorch import Problem as Search
    from evotorch.algorithms import SNES

    loss, probes, sent = FuseLoss(name), 2 * int(PEERS[name]["pairs"]), [0]

    class Pool(evotorch.core.ActorPool):  # type: ignore[misc]
        """Counts the bytes that are sent and received."""

        def map_unordered(self, fn: Any, values: Any) -> Any:
            def submit(actor: Any, value: Any) -> Any:
                return fn(CountedActor(actor, sent), value)

            for result in super().map_unordered(submit, values):
                sent[0] += len(pickle.dumps(result))
                yield result

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=256 << 20)
    kept = evotorch.core.ActorPool
    evotorch.core.ActorPool = Pool
    try:
        problem = Search("min", loss, initial_bounds=(-0.01, 0.01), solution_length=len(loss.fuse.vector()), num_actors=2)
        search = SNES(problem, stdev_init=0.02, popsize=probes, distributed=True)
        seconds = step_seconds(lambda _: search.step(), steps)
        return {
            "peer": "EvoTorch SNES", "peer_steps_per_second": 1.0 / seconds,
            "peer_bytes_per_probe": sent[0] / (probes * (steps + 3)),
        }  # fmt: skip
    finally:
        evotorch.core.ActorPool = kept
        ray.shutdown()


class CountedActor:
    """An actor; the bytes of the arguments of its calls are counted."""

    def __init__(self, actor: Any, sent: list[int]) -> None:
        self._actor, self._sent = actor, sent

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._actor, name)

        class Method:
            """One of its methods."""

            @staticmethod
            def remote(*args: Any) -> Any:
                """Call it."""
                self._sent[0] += len(pickle.dumps(args))
                return method.remote(*args)

        return Method
