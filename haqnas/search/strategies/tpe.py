"""Tree-structured Parzen estimators (Bergstra et al., NeurIPS 2011), by Optuna."""

from optuna.samplers import BaseSampler, TPESampler

from haqnas.search.optuna_strategy import OptunaStrategy


class TPE(OptunaStrategy):
    """Multivariate: choices of one trial are drawn together."""

    def make_sampler(self, seed: int) -> BaseSampler:
        return TPESampler(seed=seed, multivariate=True)
