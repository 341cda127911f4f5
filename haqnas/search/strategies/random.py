"""Random search: what a strategy that learns has to beat."""

from haqnas.search.actions import random_allowed
from haqnas.search.critic import Action
from haqnas.search.strategy import Strategy, Trial


class Random(Strategy):
    """Each new action within budget as likely as the others."""

    def propose(self) -> Action | None:
        return random_allowed(self.task.heads, self.is_allowed, self.rng)

    def learn(self, trial: Trial) -> None:
        """Nothing."""
