"""The model without agents: climb on it from a random action."""

from haqnas.search.actions import random_allowed
from haqnas.search.critic import Action
from haqnas.search.strategies.marl import Marl


class Surrogate(Marl):
    """Shows what the policies of `marl` add to the process that polishes what they propose."""

    def propose(self) -> Action | None:
        start = random_allowed(self.task.heads, self.is_allowed, self.rng)
        if start is None or len(self.trials) < self.settings.num_first:
            return start
        return self._polished(start)
