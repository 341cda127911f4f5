"""The default strategy: agents that share one reward, learn from every earlier trial, and are credited one by one.

A round draws a critic from its posterior (Thompson sampling), improves all policies against it, samples a joint action,
moves it into the budget, and polishes it: by single changes up the expected improvement of a Gaussian process, which
sees more than the pairs of the critic. Only what was evaluated is learnt from, never what was proposed before.
"""

from typing import ClassVar

import numpy as np

from haqnas.search.actions import random_allowed
from haqnas.search.agents import averaged, drawn, improved, mixed, uniform
from haqnas.search.critic import Action, Factored
from haqnas.search.gaussian_process import Process
from haqnas.search.marl import Settings, critic_of, projected, sampled_marginals, stretched
from haqnas.search.strategy import Strategy, Task, Trial
from haqnas.search.wall import ladders_of, walled


class Marl(Strategy):
    """Sequential KL-regularised updates of one policy per head, against a factored critic of all trials."""

    is_warm: ClassVar[bool] = True
    tries: ClassVar[int] = 1  # it looks for new actions itself
    settings: ClassVar[Settings] = Settings()

    def __init__(self, task: Task, rng: np.random.Generator) -> None:
        super().__init__(task, rng)
        self.trials: tuple[Trial, ...] = ()
        self.targets = uniform(task.heads)
        self.process = Process.prior(task.heads)
        self.ladders = ladders_of(task.heads, task.price, rng) if self.settings.has_haq_wall else ()

    def propose(self) -> Action | None:
        heads, settings = self.task.heads, self.settings
        if len(self.trials) < settings.num_first:
            return random_allowed(heads, self.is_allowed, self.rng)
        critic = self._critic()
        share = len(self.trials) / max(self.task.num_trials, 1)
        omega = max(settings.least_omega, settings.omega * (1 - share))
        policies = improved(critic, self.targets, omega)
        self.targets = averaged(self.targets, policies, settings.target_share)
        behaviour = mixed(self.targets, settings.behaviour_share)
        action = None
        for _ in range(settings.tries):
            action = self._projected(critic, drawn(behaviour, self.rng))
            if action is not None and self.is_allowed(action):
                return self._polished(action)
        return action  # seen before: the nearest new one stands in

    def learn(self, trial: Trial) -> None:
        self.trials = (*self.trials, trial)

    def _polished(self, action: Action) -> Action:
        self.process, posterior = self.process.after(stretched(self._learnt()))
        return posterior.climbed(self.task.heads, action, self.is_allowed)

    def _learnt(self) -> tuple[Trial, ...]:
        count = self.settings.num_replayed
        return self.trials if count is None else self.trials[-count:]

    def _projected(self, critic: Factored, action: Action) -> Action | None:
        if self.settings.has_haq_wall:
            return walled(self.ladders, action, self.task.price)
        return projected(critic, self.task.heads, action, self.task.price)

    def _critic(self) -> Factored:
        settings, trials = self.settings, stretched(self._learnt())
        if settings.has_credit:
            return critic_of(self.task.heads, trials, settings.prior).sample(self.rng, settings.draw)
        return sampled_marginals(self.task.heads, trials, self.rng)


class WithoutCredit(Marl):
    """Ablation: each head learns from the shared reward as if it alone had earned it."""

    settings: ClassVar[Settings] = Settings(has_credit=False)


class OnPolicy(Marl):
    """Ablation: only the latest trials, which nearly the present policies made, are learnt from."""

    settings: ClassVar[Settings] = Settings(num_replayed=12)


class HAQWall(Marl):
    """Ablation: actions step down into the budget in HAQ's fixed order, not by what the critic says they lose."""

    settings: ClassVar[Settings] = Settings(has_haq_wall=True)
