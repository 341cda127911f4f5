"""A made-up search whose evaluations take as long as they should, for the tests of studies."""

import time

import numpy as np

from haqnas.errors import UnsupportedModelError
from haqnas.search.play import Game, Result, Stop
from haqnas.search.strategy import Task
from haqnas.search.study import JOURNAL, Decision, Place, Study, heads_of

DECISIONS = tuple(
    Decision(f"layer{index}", f"agent{index // 3}", ("w8a8", "w4a8", "w2a4")) for index in range(6)
)
PAIRS = tuple((index, index + 1) for index in range(5))
WORTH = np.random.default_rng(5).normal(size=(6, 3))
NEVER = Stop(None, lambda: False)


def score_of(action):
    return float(WORTH[np.arange(6), action].sum() + 0.3 * (action[0] == action[1]))


def price_of(action):
    return sum((1.0, 0.6, 0.4)[option] for option in action) / 4.4


def game(
    strategy="marl", num_trials=30, seed=0, evaluate_s=0.0, log=None, score=score_of, first=(), price=price_of
):
    """`log`: a file that gets a line as an evaluation begins, and one as it ends."""

    def write(word, action):
        if log is not None:
            with log.open("a") as stream:
                stream.write(f"{word} {''.join(map(str, action))}\n")

    def evaluate(action):
        write("begin", action)
        time.sleep(evaluate_s)
        found = score(action)
        if found is None:
            raise UnsupportedModelError("layer3 cannot be lowered")
        write("end", action)
        return Result(found, {"accuracy": found})

    task = Task(heads_of(DECISIONS, PAIRS), price, num_trials, first)
    return Game(strategy, task, seed, "ptq", lambda action: {"latency": price(action)}, evaluate)


def study_in(folder, name="net marl", decisions=DECISIONS):
    folder.mkdir(exist_ok=True)
    return Study(Place(folder / JOURNAL, None, "tests"), name, decisions)


def facts_of(records):
    """What two runs of one search have to agree on."""
    left_out = {"worker"}
    return [
        (
            record.number,
            record.action,
            record.state,
            record.score,
            {name: value for name, value in record.facts.items() if name not in left_out},
        )
        for record in records
    ]
