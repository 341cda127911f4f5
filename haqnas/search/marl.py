"""The default strategy: agents that share one reward, learn from every earlier trial, and are credited one by one.

A round draws a critic from its posterior (Thompson sampling), improves all policies against it, samples a joint action,
moves it into the budget, and polishes some of them on the critic. Only what was evaluated is learnt from, never what
was proposed before projection.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from haqnas.search.agents import averaged, drawn, improved, mixed, uniform
from haqnas.search.critic import Action, Critic, Factored, Heads, Policies, Prior

Price = Callable[[Action], float]  # over budget above 1


@dataclass(frozen=True, slots=True)
class Trial:
    """What was evaluated, and how it did; None: it failed."""

    action: Action
    reward: float | None


@dataclass(frozen=True, slots=True)
class Settings:
    """Of the update."""

    prior: Prior = field(default_factory=Prior)
    num_first: int = 12  # random trials, besides those given
    target_share: float = 0.3  # of the new policies in the targets, each round
    behaviour_share: float = 0.03  # of uniform choices in what is sampled
    omega: float = 0.5  # weight of the KL term at the start, in standard deviations of rewards
    least_omega: float = 0.075
    polish_share: float = 0.5
    tries: int = 200


@dataclass(frozen=True, slots=True)
class State:
    """All that a round starts from."""

    trials: tuple[Trial, ...]
    targets: Policies

    @classmethod
    def begin(cls, heads: Heads) -> "State":
        return cls((), uniform(heads))

    def told(self, trial: Trial) -> "State":
        """With one more trial."""
        return replace(self, trials=(*self.trials, trial))


@dataclass(frozen=True, slots=True)
class Proposal:
    """The next action, None where no new one within budget was found, and the targets after this round."""

    action: Action | None
    targets: Policies


def propose(
    heads: Heads, state: State, budget_trials: int, price: Price, settings: Settings, rng: np.random.Generator
) -> Proposal:
    """The next action to evaluate: new, and within budget."""
    seen = frozenset(trial.action for trial in state.trials)
    if len(seen) < settings.num_first:
        return Proposal(_any_new(heads, seen, price, settings.tries, rng), state.targets)
    critic = critic_of(heads, state.trials, settings.prior).sample(rng)
    share = len(state.trials) / budget_trials
    omega = max(settings.least_omega, settings.omega * (1 - share))
    policies = improved(critic, state.targets, omega)
    targets = averaged(state.targets, policies, settings.target_share)
    behaviour = mixed(targets, settings.behaviour_share)
    for _ in range(settings.tries):
        action = projected(critic, heads, drawn(behaviour, rng), price)
        if action is not None and action not in seen:
            break
    else:
        return Proposal(_any_new(heads, seen, price, settings.tries, rng), targets)
    if rng.random() < settings.polish_share:
        action = polished(critic, heads, action, price, seen)
    return Proposal(action, targets)


def critic_of(heads: Heads, trials: Sequence[Trial], prior: Prior) -> Critic:
    """The critic after `trials`. A failure counts as half a range below the worst; outliers below are drawn near."""
    rewards = np.array([trial.reward for trial in trials if trial.reward is not None], np.float64)
    low = float(rewards.min() - 0.5 * np.ptp(rewards)) if len(rewards) else 0.0
    values = np.array([low if trial.reward is None else trial.reward for trial in trials])
    lower, middle = np.quantile(values, (0.25, 0.5))
    floor = middle - 6 * max(middle - lower, 1e-9)
    return Critic.fit(heads, prior, [trial.action for trial in trials], np.maximum(values, floor).tolist())


def projected(critic: Factored, heads: Heads, action: Action, price: Price) -> Action | None:
    """`action` brought within budget: one change after the other, each with the least loss for what it saves.

    Source: HAQ's budget wall, with measured prices instead of a fixed order. None where no change helps any more.
    """
    cost = price(action)
    while cost > 1:
        value = critic.value(action)
        steps = []
        for other in _neighbours(heads, action):
            new_cost = price(other)
            if new_cost < cost:
                saved = min(cost - new_cost, cost - 1)  # what is saved beyond the budget is worth nothing
                steps.append(((value - critic.value(other)) / saved, new_cost, other))
        if not steps:
            return None
        _, cost, action = min(steps)
    return action


def polished(critic: Factored, heads: Heads, action: Action, price: Price, seen: frozenset[Action]) -> Action:
    """Climb on the critic by single changes within budget, to actions that are new."""
    value = critic.value(action)
    while True:
        better = [
            (critic.value(other), other)
            for other in _neighbours(heads, action)
            if other not in seen and critic.value(other) > value + 1e-9 and price(other) <= 1
        ]
        if not better:
            return action
        value, action = max(better)


def _neighbours(heads: Heads, action: Action) -> list[Action]:
    return [
        (*action[:head], option, *action[head + 1 :])
        for head, count in enumerate(heads.counts)
        for option in range(count)
        if option != action[head]
    ]


def _any_new(
    heads: Heads, seen: frozenset[Action], price: Price, tries: int, rng: np.random.Generator
) -> Action | None:
    for _ in range(50 * tries):
        action = tuple(int(rng.integers(count)) for count in heads.counts)
        if action not in seen and price(action) <= 1:
            return action
    return None
