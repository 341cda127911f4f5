"""The critic without agents: climb on a draw from its posterior, from a random action."""

from haqnas.search.actions import random_allowed
from haqnas.search.critic import Action
from haqnas.search.marl import critic_of, polished, stretched
from haqnas.search.strategies.marl import Marl


class Surrogate(Marl):
    """Shows what the policies of `marl` add to its critic."""

    def propose(self) -> Action | None:
        start = random_allowed(self.task.heads, self.is_allowed, self.rng)
        if start is None or len(self.trials) < self.settings.num_first:
            return start
        settings = self.settings
        critic = critic_of(self.task.heads, stretched(self.trials), settings.prior).sample(
            self.rng, settings.draw
        )
        return polished(critic, self.task.heads, start, self.is_allowed)
