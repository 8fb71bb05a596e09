"""RayEvaluator: an evaluator's work spread over the machines of a Ray cluster."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from synthselect_env.data import Dataset
from synthselect_env.evaluators.base import Evaluator
from synthselect_env.evaluators.parallel import SpreadEvaluator, answer_of, name_of_split


class _Worker:
    """An actor with a copy of the evaluator.

    :param evaluator: evaluator that scores
    :param threads: torch threads of the actor
    """

    def __init__(self, evaluator: Evaluator, threads: int) -> None:
        torch.set_num_threads(threads)
        self.evaluator = evaluator

    def work(
        self, method: str, selections: np.ndarray, seed: int, arguments: list[str | Dataset]
    ) -> Any:
        """Return the evaluator's answer."""
        return answer_of(self.evaluator, method, selections, seed, arguments)


class RayEvaluator(SpreadEvaluator):
    """Score selections in several Ray actors.

    It is :class:`ParallelEvaluator` for a cluster, and needs ``pip install "synthselect[ray]"``.
    Ray is started where it is not running yet, and left running.

    .. code-block:: python

        with RayEvaluator(RetrainEvaluator(bank), num_gpus=0.25) as evaluator:
            evaluator.evaluate(selections, seed=0)

    :param evaluator: evaluator that scores; each actor gets a copy
    :param workers: number of actors; None for as many as the cluster's processors and GPUs allow
    :param num_cpus: number of processors, and of torch threads, per actor
    :param num_gpus: number of GPUs per actor, which may be a fraction
    :param address: address of the cluster; None for this machine, or the one already connected to
    :raises ImportError: if Ray is not installed
    :raises ValueError: if the cluster has less than the actors need, or an evaluator on a GPU is to
        run without one
    """

    def __init__(
        self,
        evaluator: Evaluator,
        workers: int | None = None,
        num_cpus: int = 1,
        num_gpus: float = 0.0,
        address: str | None = None,
    ) -> None:
        super().__init__(evaluator)
        try:
            import ray
        except ImportError as error:
            raise ImportError('RayEvaluator needs ray: pip install "synthselect[ray]"') from error
        if evaluator.device.type == "cuda" and not num_gpus:
            raise ValueError(
                "the evaluator computes on a GPU: "
                "say with num_gpus which share of one each actor gets"
            )
        if not ray.is_initialized():
            ray.init(address=address, include_dashboard=False, log_to_driver=False)
        resources = ray.cluster_resources()
        by_cpu = resources.get("CPU", 1) / num_cpus
        by_gpu = resources.get("GPU", 0) / num_gpus if num_gpus else math.inf
        room = min(by_cpu, by_gpu)
        self.workers = workers or max(1, int(room))
        if self.workers > room:
            raise ValueError(
                f"{self.workers} actors of {num_cpus} processors and {num_gpus:g} GPUs do not fit "
                f"into {resources}, and would wait for ever; take fewer"
            )
        self.batch_size = self.workers * evaluator.batch_size
        self.num_cpus = num_cpus
        self.num_gpus = num_gpus
        self._actors: list[Any] = []

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_actors": []}

    def close(self) -> None:
        """End the actors; a later call starts new ones."""
        import ray

        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    def answers(
        self, method: str, selections: np.ndarray, seed: int, *arguments: Dataset
    ) -> list[Any]:
        """Return the actors' answers, each to a few selections.

        :raises RuntimeError: if an actor ended abruptly
        """
        import ray
        from ray.util import ActorPool

        if not self._actors:
            remote = ray.remote(num_cpus=self.num_cpus, num_gpus=self.num_gpus)(_Worker)
            shared = ray.put(self.evaluator)  # sent to each machine once
            self._actors = [remote.remote(shared, self.num_cpus) for _ in range(self.workers)]
        sent = [name_of_split(self.bank, dataset) for dataset in arguments]

        def submit(actor: Any, part: np.ndarray) -> Any:
            return actor.work.remote(method, part, seed, sent)

        try:
            return list(ActorPool(self._actors).map(submit, self.parts(selections)))
        except ray.exceptions.RayActorError as error:
            self.close()
            raise RuntimeError(
                f"one of {self.workers} actors ended abruptly: too little memory for all? "
                "Take fewer workers"
            ) from error
