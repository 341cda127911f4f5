"""Options of a compilation: read from what the user wrote, and checked before anything long begins."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from haqnas.bit_search import ILP
from haqnas.budgets import Budgets, read_budgets
from haqnas.codegen.link import Linker, choose_linker
from haqnas.devices.cache_folder import default_cache_folder
from haqnas.devices.choose import device_for
from haqnas.devices.device import Device
from haqnas.devices.local import read_host_cpu
from haqnas.errors import ConfigurationError
from haqnas.hardware import HardwareProfile, find_profile, profile_path
from haqnas.latency_table import LatencyTable, read_table
from haqnas.quantspec import QuantSpec
from haqnas.rewrite.ptq import check_method
from haqnas.search.strategy import known_strategies
from haqnas.settings import Settings, recipe_of, supernet_recipe_of
from haqnas.space.knobs import Pin, Rules
from haqnas.space.policy import Policy
from haqnas.train.recipe import Recipe
from haqnas.train.sensitivity import SENSITIVITIES
from haqnas.tune import require_clock

AUTO = "auto"  # chosen by a search
TABLE = "table"  # the device that runs nothing: latency is what the profile predicts
MAX_WORKERS = 64
DEFAULT_STRATEGY = "marl"  # of searches that the ILP cannot do
MAX_THREADS = 64  # HAQNAS_MAX_THREADS in the runtime
# so has the C functions and TVM's entry, tvm also an object file for TVM to link; layers times each call
FORMATS = ("exe", "a", "so", "tvm", "layers")


@dataclass(frozen=True, slots=True)
class Options:
    """What `compile` was asked for, checked; what `settings` name is resolved beside them."""

    settings: Settings
    name: str
    profile: HardwareProfile
    table: LatencyTable | None  # of the profile
    device: Device | None
    policy: Policy | None  # None: to be chosen by a search
    rules: Rules  # of the user, for single layers
    budgets: Budgets
    linker: Linker
    formats: tuple[str, ...]
    recipe: Recipe | None  # of fine-tuning


def read_policy(settings: Settings) -> Policy | None:
    """`8`, `w4a8`, the path of a policy.json; None: chosen by a search. Raises ConfigurationError."""
    bits = settings.bits
    if isinstance(bits, Policy):
        return bits
    if bits is None:
        limits = (settings.latency_budget, settings.size_budget, settings.max_drop)
        searched = (settings.strategy, settings.trials, settings.architecture, *settings.compare_strategies)
        bits = "auto" if any(asked is not None for asked in (*limits, *searched)) else "8"
    if bits == AUTO:
        return None
    path = Path(bits)
    if _is_file(bits):
        try:
            return Policy.from_json(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise ConfigurationError(f"the policy {path} cannot be read: {reason}") from None
    return Policy(QuantSpec.parse(bits))


def _is_file(bits: str) -> bool:
    return Path(bits).suffix == ".json" or "/" in bits


def _read_rules(settings: Settings) -> Rules:
    """Raises ConfigurationError for rules beside a policy that says everything itself."""
    rules = Rules(tuple(map(Pin.parse, settings.pin)), tuple(settings.include), tuple(settings.exclude))
    bits = settings.bits
    if rules != Rules() and (isinstance(bits, Policy) or (bits is not None and _is_file(bits))):
        raise ConfigurationError(
            "--pin, --include and --exclude do not go with a policy, which names all bits; change it there"
        )
    return rules


def _check_search(settings: Settings, policy: Policy | None) -> None:
    if settings.sensitivity not in SENSITIVITIES:
        raise ConfigurationError(
            f"--sensitivity is one of {', '.join(SENSITIVITIES)}, but got {settings.sensitivity!r}"
        )
    chosen = strategies_of(settings)
    known = [ILP, *sorted(known_strategies())]
    for name in chosen:
        if name not in known:
            raise ConfigurationError(f"--strategy is one of {', '.join(known)}, but got {name!r}")
    if len(set(chosen)) < len(chosen):
        raise ConfigurationError(f"--compare names each strategy once, but got {', '.join(chosen)}")
    if settings.strategy is not None and settings.strategy != chosen[0]:
        raise ConfigurationError(
            f"--compare {','.join(chosen)} compiles the bits that {chosen[0]} finds, but --strategy is "
            f"{settings.strategy}; leave --strategy out, or put it first"
        )
    if policy is not None and (settings.strategy is not None or settings.compare_strategies):
        raise ConfigurationError(
            "--strategy chooses the bits, so it goes with --bits auto only; leave one of them out"
        )
    _check_architecture(settings, policy, chosen)
    _check_recipes(settings)
    _check_trials(settings, is_by_trials=policy is None and chosen != (ILP,))


def strategies_of(settings: Settings) -> tuple[str, ...]:
    """That search; what the first one finds is compiled."""
    default = ILP if settings.architecture is None else DEFAULT_STRATEGY
    return tuple(settings.compare_strategies) or (settings.strategy or default,)


def _check_architecture(settings: Settings, policy: Policy | None, strategies: Sequence[str]) -> None:
    """An architecture is searched together with the bits, and by trials."""
    if settings.architecture is None:
        if (settings.supernet_epochs, settings.supernet_time_s) != (None, None):
            raise ConfigurationError(
                "--supernet-epochs and --supernet-time train weights that architectures share; add "
                "--architecture auto, or leave them out"
            )
        return
    if settings.architecture != AUTO:
        raise ConfigurationError(
            f"--architecture is {AUTO}, or left out for the network as it is, but got {settings.architecture!r}"
        )
    if policy is not None:
        raise ConfigurationError(
            "--architecture auto is searched together with the bits, so it goes with --bits auto only"
        )
    if ILP in strategies:
        raise ConfigurationError(
            f"--strategy {ILP} chooses bits alone; an architecture takes trials: --strategy {DEFAULT_STRATEGY}, or "
            "another of docs/search.md"
        )
    supernet_recipe_of(settings)


def recipe_strategy(settings: Settings) -> str:
    """That searches for recipes: the one of the bits, where it makes trials."""
    (first, *_) = strategies_of(settings)
    return DEFAULT_STRATEGY if first == ILP else first


def search_time_s(options: Options) -> float | None:
    """Of each search: policies by trials and recipes, where both are searched, share the time budget equally."""
    settings = options.settings
    is_by_trials = options.policy is None and strategies_of(settings) != (ILP,)
    has_both = is_by_trials and settings.qat_recipe == AUTO
    budget_s = settings.time_budget_s
    return budget_s / 2 if has_both and budget_s is not None else budget_s


def trial_epochs(settings: Settings) -> float:
    """Of the training in each trial of a recipe."""
    if settings.qat_trial_epochs is not None:
        return settings.qat_trial_epochs
    return 1.0 if settings.qat_epochs is None else settings.qat_epochs / 4


def _check_recipes(settings: Settings) -> None:
    asked = {
        "--qat-trials": settings.qat_trials is not None,
        "--qat-trial-epochs": settings.qat_trial_epochs is not None,
    }
    if settings.qat_recipe is None:
        for option in (option for option, is_given in asked.items() if is_given):
            raise ConfigurationError(
                f"{option} is for a search of recipes; add --qat-recipe auto, or leave it out"
            )
        return
    if settings.qat_recipe != AUTO:
        raise ConfigurationError(
            f"--qat-recipe is {AUTO}, or left out for what the options of fine-tuning say, but got "
            f"{settings.qat_recipe!r}"
        )
    if settings.qat_epochs is None and settings.qat_time_s is None:
        raise ConfigurationError(
            "--qat-recipe auto searches how to fine-tune, but not how long; add --qat-epochs or --qat-time"
        )
    if settings.qat_trials is not None and settings.qat_trials < 1:
        raise ConfigurationError(f"--qat-trials is a number from 1, but got {settings.qat_trials}")
    most = math.inf if settings.qat_epochs is None else settings.qat_epochs
    if not 0 < trial_epochs(settings) <= most or math.isinf(trial_epochs(settings)):
        raise ConfigurationError(
            f"--qat-trial-epochs is the length of short trainings: more than 0, and at most that of the whole one "
            f"(--qat-epochs), but got {trial_epochs(settings):g}"
        )


def _check_trials(settings: Settings, is_by_trials: bool) -> None:
    """What goes with searches that make trials only."""
    if settings.trials is not None and not is_by_trials:
        raise ConfigurationError(
            "--trials is for strategies that make trials; add --strategy marl, or another of docs/search.md"
        )
    asked = {
        "--time-budget": settings.time_budget_s is not None,
        "--workers": settings.workers != 1,
        "--study": settings.study is not None,
    }
    has_trials = is_by_trials or settings.qat_recipe == AUTO
    for option, is_given in asked.items():
        if is_given and not has_trials:
            raise ConfigurationError(
                f"{option} is for strategies that make trials; add --strategy marl, or another of docs/search.md"
            )
    if settings.trials is not None and settings.trials < 1:
        raise ConfigurationError(f"--trials is a number from 1, but got {settings.trials}")
    if not 1 <= settings.workers <= MAX_WORKERS:
        raise ConfigurationError(f"--workers is a number from 1 to {MAX_WORKERS}, but got {settings.workers}")
    if settings.time_budget_s is not None and not 0 < settings.time_budget_s < math.inf:
        raise ConfigurationError(f"--time-budget is more than 0 seconds, but got {settings.time_budget_s}")


def check_options(name: str, settings: Settings) -> Options:
    """Check everything that needs no model; raises ConfigurationError, or DeviceError for a missing tool.

    `name` is the model's, for its files and C functions.
    """
    host = read_host_cpu()
    target = settings.target
    profile = find_profile(target, host) if isinstance(target, str) else target
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise ConfigurationError(
            f"a name starts with a letter and has letters, digits and '_', but got {name!r}"
        )
    table = read_table(profile_path(target, host)) if isinstance(target, str) else None
    formats = _checked_formats(settings.formats)
    threads = _checked_threads(settings.threads)
    is_predicted = settings.device == TABLE
    if is_predicted and table is None:
        raise ConfigurationError(
            f"--device table: the profile {profile.name!r} has no latency table; make one with haqnas profile and give "
            "its file as --target"
        )
    check_method(settings.ptq)
    device = None if is_predicted else device_for(profile, settings.device, host, threads)
    _check_tuning(settings.tune_time_s, device, profile)
    policy = read_policy(settings)
    _check_search(settings, policy)
    return Options(
        settings=settings,
        name=name,
        profile=profile,
        table=table,
        device=device,
        policy=policy,
        rules=_read_rules(settings),
        budgets=read_budgets(settings.latency_budget, settings.size_budget, settings.max_drop),
        linker=choose_linker(profile.triple, settings.cc),
        formats=formats,
        recipe=recipe_of(settings),
    )


def cache_folder_of(settings: Settings) -> Path:
    """Where what need not be made twice is kept."""
    return settings.cache_folder or default_cache_folder()


def _checked_formats(formats: Sequence[str]) -> tuple[str, ...]:
    """In the order of FORMATS."""
    unknown = [chosen for chosen in formats if chosen not in FORMATS]
    if unknown or not formats:
        raise ConfigurationError(
            f"formats are one or more of {', '.join(FORMATS)}, but got {', '.join(formats) or 'none'}"
        )
    return tuple(chosen for chosen in FORMATS if chosen in formats)


def _checked_threads(threads: int) -> int:
    if not 1 <= threads <= MAX_THREADS:
        raise ConfigurationError(
            f"threads are 1 to {MAX_THREADS}, but got {threads}; give as many as the device has cores to spare"
        )
    return threads


def _check_tuning(tune_time_s: float, device: Device | None, profile: HardwareProfile) -> None:
    if not 0 <= tune_time_s < math.inf:
        raise ConfigurationError(
            f"--tune-time is a number of seconds from 0, but got {tune_time_s}; a minute is plenty for most networks"
        )
    if tune_time_s > 0:
        require_clock(device, profile.name)


def split_model(model_file: str) -> tuple[Path, str | None]:
    """Path and builder of `MODEL[:BUILDER]`."""
    path, colon, builder = model_file.rpartition(":")
    if colon and path.endswith(".py"):
        return Path(path), builder
    return Path(model_file), None


def c_name(stem: str) -> str:
    """A C identifier that resembles a file's stem."""
    cleaned = re.sub(r"\W", "_", stem, flags=re.ASCII)
    return cleaned if re.match(r"[A-Za-z]", cleaned) else f"model_{cleaned}"
