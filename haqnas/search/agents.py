"""Agents: one factored policy each, improved against a critic, and credited for what they chose.

The policies of all heads are updated one after the other, each against the newest policies of the others and held near
its target policy by a KL term (MA2ML's off-policy update with explicit credit, written for a one-step game).
"""

import itertools
from collections.abc import Mapping, Sequence
from math import factorial

import numpy as np

from haqnas.search.critic import Action, Factored, Heads, Policies, Vector

SWEEPS = 2


def uniform(heads: Heads) -> Policies:
    """Every option as likely as the others."""
    return tuple(np.full(count, 1 / count) for count in heads.counts)


def improved(critic: Factored, targets: Policies, omega: float, sweeps: int = SWEEPS) -> Policies:
    """Policies that raise E[Q] - omega * KL(policy, target), head by head.

    Each step solves its head's part exactly, pi = normalise(target * exp(Q_head / omega)), so `objective` never falls.
    """
    policies = targets
    for _ in range(sweeps):
        for head, target in enumerate(targets):
            tilted = np.log(np.maximum(target, 1e-300)) + critic.of_head(head, policies) / omega
            weights = np.exp(tilted - tilted.max())
            policies = (*policies[:head], weights / weights.sum(), *policies[head + 1 :])
    return policies


def objective(critic: Factored, policies: Policies, targets: Policies, omega: float) -> float:
    """E[Q] - omega * sum of KL(policy, target)."""
    return critic.expected(policies) - omega * sum(map(_divergence, policies, targets))


def _divergence(policy: Vector, target: Vector) -> float:
    held = policy > 0
    return float(np.sum(policy[held] * np.log(policy[held] / np.maximum(target[held], 1e-300))))


def mixed(policies: Policies, share: float) -> Policies:
    """With probability `share` any option, else by the policy: what is sampled from."""
    return tuple((1 - share) * policy + share / len(policy) for policy in policies)


def averaged(old: Policies, new: Policies, share: float) -> Policies:
    """`share` of the new policies, the rest of the old ones."""
    return tuple((1 - share) * a + share * b for a, b in zip(old, new, strict=True))


def drawn(policies: Policies, rng: np.random.Generator) -> Action:
    """One option of each head."""
    return tuple(
        int(np.searchsorted(np.cumsum(policy)[:-1], rng.random(), side="right")) for policy in policies
    )


def counterfactual_credit(critic: Factored, policies: Policies, action: Action) -> tuple[float, ...]:
    """Of each head: Q(a) less what its policy would have got with all other choices kept (COMA's advantage)."""
    fixed = tuple(np.eye(len(policy))[option] for policy, option in zip(policies, action, strict=True))
    credits = []
    for head, policy in enumerate(policies):
        values = critic.of_head(head, fixed)
        credits.append(float(values[action[head]] - policy @ values))
    return tuple(credits)


def shapley_credit(critic: Factored, policies: Policies, action: Action, heads: Heads) -> Mapping[str, float]:
    """Of each agent: its Shapley value of Q(a) - E[Q], where an absent agent draws by its policy.

    Source: Shapley 1953. Exact over all coalitions: agents are few.
    """
    agents = tuple(dict.fromkeys(head.agent for head in heads.heads))
    fixed = tuple(np.eye(len(policy))[option] for policy, option in zip(policies, action, strict=True))

    def worth(present: Sequence[str]) -> float:
        chosen = (
            fixed[index] if head.agent in present else policies[index]
            for index, head in enumerate(heads.heads)
        )
        return critic.expected(tuple(chosen))

    worths = {
        subset: worth(subset)
        for size in range(len(agents) + 1)
        for subset in itertools.combinations(agents, size)
    }
    total = factorial(len(agents))
    credit = {}
    for agent in agents:
        without = [subset for subset in worths if agent not in subset]
        gains = (
            factorial(len(subset))
            * factorial(len(agents) - len(subset) - 1)
            / total
            * (worths[tuple(one for one in agents if one in {*subset, agent})] - worths[subset])
            for subset in without
        )
        credit[agent] = float(sum(gains))
    return credit
