"""The genetic algorithm NSGA-II (Deb et al., 2002), by Optuna, with one objective and the price as constraint."""

from optuna.samplers import BaseSampler, NSGAIISampler

from haqnas.search.optuna_strategy import OptunaStrategy

POPULATION_SIZE = 20  # Optuna's 50 would be a single generation of a short search


class NSGA2(OptunaStrategy):
    """Populations of 20; what is over budget competes in them, but is never evaluated."""

    def make_sampler(self, seed: int) -> BaseSampler:
        return NSGAIISampler(seed=seed, population_size=POPULATION_SIZE)
