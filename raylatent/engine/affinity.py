"""Units of whole slides, handed out so that workers stay with the slide they hold."""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any

import ray

from raylatent.engine.cluster import beside_driver
from raylatent.source.units import UnitPlan

Ticket = tuple[str, int]


class SlideQueue:
    """Which unit of a slide a worker is to do next.

    A worker goes on with its slide; else it helps with one that its node holds already
    (a copy of a remote slide is made once a node); else it begins one that nobody
    holds; else it helps where most is left. The longest begins first.

    Args:
        plans: All units.
        nodes: The node that has a copy of a slide already, from looking at it.
    """

    def __init__(
        self,
        plans: Sequence[UnitPlan],
        nodes: Mapping[str, str] | None = None,
    ) -> None:
        """See the class."""
        self._copies = dict(nodes or {})
        self._left: dict[str, deque[UnitPlan]] = {}
        for plan in plans:
            self._left.setdefault(plan.source.slide, deque()).append(plan)
        self._given: dict[Ticket, UnitPlan] = {}
        self._holds: dict[str, str] = {}  # worker: slide
        self._node: dict[str, str] = {}  # worker: node

    def take(self, ticket: Ticket, worker: str, node: str) -> UnitPlan:
        """The unit for a ticket: the same again if the ticket comes again.

        Args:
            ticket: Each unit's (slide, number) once; which one does not matter.
            worker: Who asks.
            node: Where it is.

        Raises:
            ValueError: There are more tickets than units.
        """
        if ticket not in self._given:
            slide = self._choose(worker, node)
            self._given[ticket] = self._left[slide].popleft()
            if not self._left[slide]:
                del self._left[slide]
            self._holds[worker], self._node[worker] = slide, node
        return self._given[ticket]

    def _choose(self, worker: str, node: str) -> str:
        own = self._holds.get(worker)
        if own in self._left:
            return str(own)
        held = Counter(self._holds.values())
        here = {slide for w, slide in self._holds.items() if self._node[w] == node}

        def rank(slide: str) -> tuple[int, int, int]:
            copy = self._copies.get(slide, node)
            if slide in here or (slide in self._copies and copy == node):
                place = 0
            elif held[slide]:
                place = 3
            else:
                place = 1 if copy == node else 2
            return place, held[slide], -sum(plan.count for plan in self._left[slide])

        return min(self._left, key=rank)


def start_queue(plans: Sequence[UnitPlan], nodes: Mapping[str, str]) -> Any:  # noqa: ANN401  (a handle)
    """The queue as an actor beside the driver, None where there is no unit."""
    if not plans:
        return None
    actor: Any = ray.remote(num_cpus=0)(SlideQueue)
    return actor.options(scheduling_strategy=beside_driver()).remote(
        list(plans), dict(nodes)
    )


def take(queue: Any, ticket: Ticket) -> UnitPlan:  # noqa: ANN401
    """The unit for a ticket, for the actor that calls this."""
    context = ray.get_runtime_context()
    plan: UnitPlan = ray.get(
        queue.take.remote(ticket, context.get_actor_id(), context.get_node_id())
    )
    return plan
