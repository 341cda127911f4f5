"""ProxylessNAS's REINFORCE form: one softmax per head, moved by rewards (Cai et al., ICLR 2019, arXiv 1812.00332).

The paper's other form, two paths with binary gates, takes the gradient of the loss of a network whose weights hold
every candidate; here there are only rewards that were measured, and no such gradient.
"""

from typing import ClassVar

import numpy as np
import torch

from haqnas.search.agents import drawn
from haqnas.search.critic import Action, Policies
from haqnas.search.marl import with_failures
from haqnas.search.strategy import Strategy, Task, Trial


class Proxyless(Strategy):
    """Log-probability of what was evaluated times what its reward is above a moving average, by Adam.

    The paper's reward is accuracy * (target / latency)^w. Here the price is a hard budget: actions over it are not
    evaluated, and nothing is learnt from them, so the reward is the accuracy alone, in standard deviations of all so
    far; a failure counts as half a range below the worst. The paper takes 10 networks a step, 300 steps an epoch, at a
    rate of 0.001; a search here has some hundred evaluations, so each is a step, at a greater rate.
    """

    rate: ClassVar[float] = 0.1
    baseline_share: ClassVar[float] = 0.1  # of the newest reward in the moving average

    def __init__(self, task: Task, rng: np.random.Generator) -> None:
        super().__init__(task, rng)
        self.logits = [torch.zeros(count, requires_grad=True) for count in task.heads.counts]
        self.scores: tuple[float | None, ...] = ()
        self.baseline: float | None = None
        if self.logits:
            self.optimizer = torch.optim.Adam(self.logits, self.rate, betas=(0.0, 0.999))  # the paper's

    @property
    def policies(self) -> Policies:
        """The probability of each option of each head."""
        return tuple(logits.detach().double().softmax(0).numpy() for logits in self.logits)

    def propose(self) -> Action | None:
        return drawn(self.policies, self.rng)

    def learn(self, trial: Trial) -> None:
        self.scores = (*self.scores, trial.score)
        rewards = with_failures(self.scores)
        baseline = rewards[-1] if self.baseline is None else self.baseline
        advantage = (rewards[-1] - baseline) / (float(np.std(rewards)) + 1e-9)
        self.baseline = baseline + self.baseline_share * (rewards[-1] - baseline)
        if not self.logits:
            return
        chosen = zip(self.logits, trial.action, strict=True)
        likelihood = torch.stack([logits.log_softmax(0)[option] for logits, option in chosen]).sum()
        self.optimizer.zero_grad()
        (-advantage * likelihood).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
