"""A study: every trial of a search, in an Optuna storage that survives a kill and that several workers share.

A trial is claimed before it is evaluated, with its action in words. Trials are numbered by the storage, so among equal
actions the lowest number has the claim, and the others are given up. What a dead worker left is done by another one.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages._heartbeat import BaseHeartbeat, get_heartbeat_thread
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from haqnas.errors import ConfigurationError
from haqnas.search.critic import Action, Head, Heads
from haqnas.search.storage import open_database, open_journal, quietly, taught_storage_errors

JOURNAL = "study.journal"
FIDELITIES = ("ptq", "short qat", "full qat")  # by cost
Fidelity: TypeAlias = Literal["ptq", "short qat", "full qat"]
Facts: TypeAlias = Mapping[str, Any]  # JSON values

_GIVEN_UP = "given_up"
_OWNER = "owner"


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be decided: its name, the agent that decides, and the options in words."""

    name: str
    agent: str
    options: tuple[str, ...]


def heads_of(decisions: Sequence[Decision], pairs: tuple[tuple[int, int], ...]) -> Heads:
    """Decisions by numbers, as strategies see them; `pairs` of indices may interact."""
    return Heads(tuple(Head(one.name, one.agent, len(one.options)) for one in decisions), pairs)


@dataclass(frozen=True, slots=True)
class Record:
    """A trial as it is stored. `facts`: what else is known of it, by name."""

    number: int
    action: Action
    state: Literal["waiting", "running", "done", "failed"]
    score: float | None  # None: not done
    facts: Facts
    duration_s: float  # 0 while it is not finished
    key: int  # of the storage

    @property
    def is_finished(self) -> bool:
        return self.state in {"done", "failed"}


_STATES: Mapping[Any, Literal["waiting", "running", "done", "failed"]] = {
    TrialState.WAITING: "waiting",
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "done",
    TrialState.FAIL: "failed",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a study is kept: a journal file, or the URL of a database. `owner` names whose trials are whose.

    A journal belongs to the one command that holds the lock of its folder: no other is alive.
    """

    path: Path | None
    url: str | None
    owner: str

    @property
    def text(self) -> str:
        return self.url if self.url is not None else str(self.path)

    def open(self) -> BaseStorage:
        """A connection of this process."""
        if self.url is not None:
            return open_database(self.url)
        assert self.path is not None  # one of the two
        return open_journal(self.path)


class Study:
    """The trials of one search. Raises ConfigurationError where the storage fails."""

    def __init__(self, place: Place, name: str, decisions: Sequence[Decision]) -> None:
        self.place = place
        self.name = name
        self.decisions = tuple(decisions)
        self._choices: dict[str, BaseDistribution] = {
            decision.name: CategoricalDistribution(decision.options) for decision in decisions
        }
        self._storage = place.open()
        with taught_storage_errors(place.text):
            self._id = _study_id(self._storage, name)

    def records(self) -> tuple[Record, ...]:
        """All trials by number, without claims that were given up."""
        with taught_storage_errors(self.place.text):
            trials = self._storage.get_all_trials(self._id, deepcopy=False)
        return tuple(self._record(trial) for trial in trials if _GIVEN_UP not in trial.user_attrs)

    def claim(self, action: Action, facts: Facts, limit: int) -> Record | None:
        """Begin the trial of `action`; None where another has it, or where there are `limit` trials already."""
        template = self._template(action, TrialState.RUNNING, facts)
        with taught_storage_errors(self.place.text):
            key = self._storage.create_new_trial(self._id, template)
            self._beat(key)
        return self._confirmed(key, limit)

    def enqueue(self, action: Action, facts: Facts) -> None:
        """A trial that waits for a worker to take it over; nothing where its action has one."""
        if any(record.action == action for record in self.records()):
            return
        template = self._template(action, TrialState.WAITING, facts)
        with taught_storage_errors(self.place.text):
            self._storage.create_new_trial(self._id, template)

    def take_over(self, limit: int) -> Record | None:
        """Go on with a trial that a dead worker left; None where there is none."""
        with taught_storage_errors(self.place.text):
            for record in self.records():
                if record.state != "waiting":
                    continue
                self._beat(record.key)  # first, so that nobody takes it for left
                if self._set_state(record.key, TrialState.RUNNING):
                    self._storage.set_trial_user_attr(record.key, _OWNER, self.place.owner)
                    found = self._confirmed(record.key, limit)
                    if found is not None:
                        return found
            return self._replacement(limit)

    def finish(self, record: Record, score: float | None, facts: Facts) -> None:
        """How a trial ended; a `score` of None: it failed. The first to say so counts."""
        with taught_storage_errors(self.place.text):
            try:
                for name, value in facts.items():
                    self._storage.set_trial_user_attr(record.key, name, value)
            except UpdateFinishedTrialError:
                return
            if score is None:
                self._set_state(record.key, TrialState.FAIL)
            else:
                self._set_state(record.key, TrialState.COMPLETE, score)

    def release(self, worker: int | None = None) -> None:
        """Leave the trials that a dead run of this owner began (or one `worker` of this run) to be taken over."""
        for record in self.records():
            is_own = self.place.url is None or record.facts.get(_OWNER) == self.place.owner
            is_meant = worker is None or record.facts.get("worker") == worker
            if record.state == "running" and is_own and is_meant:
                with taught_storage_errors(self.place.text):
                    self._beat(record.key)
                    self._set_state(record.key, TrialState.WAITING)

    @contextmanager
    def alive(self, record: Record) -> Iterator[None]:
        """While the trial is evaluated, a database is told so; a journal has no need."""
        with get_heartbeat_thread(record.key, self._storage):
            yield

    def close(self) -> None:
        """Ends the connection to a database."""
        if isinstance(self._storage, RDBStorage):
            self._storage.remove_session()
            self._storage.engine.dispose()

    def copy_to(self, path: Path) -> None:
        """Into a journal file, beside what other studies it holds; an earlier copy is replaced."""
        to_storage = open_journal(path)
        if any(study.study_name == self.name for study in to_storage.get_all_studies()):
            to_storage.delete_study(to_storage.get_study_id_from_name(self.name))
        with taught_storage_errors(self.place.text):
            quietly(
                lambda: optuna.copy_study(
                    from_study_name=self.name, from_storage=self._storage, to_storage=to_storage
                )
            )

    def _template(self, action: Action, state: TrialState, facts: Facts) -> FrozenTrial:
        chosen = zip(self.decisions, action, strict=True)
        return create_trial(
            state=state,
            params={decision.name: decision.options[option] for decision, option in chosen},
            distributions=self._choices,
            user_attrs={**facts, _OWNER: self.place.owner},
        )

    def _confirmed(self, key: int, limit: int) -> Record | None:
        records = self.records()
        own = next((record for record in records if record.key == key), None)
        if own is None:
            return None  # another took it for left
        before = [record for record in records if record.number < own.number]
        twin = next((record for record in before if record.action == own.action), None)
        if twin is None and len(before) < limit:
            return own
        reason = "all trials are begun" if twin is None else f"trial {twin.number} has this action"
        with taught_storage_errors(self.place.text):
            self._give_up(key, reason)
        return None

    def _set_state(self, key: int, state: TrialState, score: float | None = None) -> bool:
        """False where another was first."""
        try:
            return bool(self._storage.set_trial_state_values(key, state, None if score is None else [score]))
        except UpdateFinishedTrialError:
            return False

    def _beat(self, key: int) -> None:
        if isinstance(self._storage, BaseHeartbeat):
            self._storage.record_heartbeat(key)

    def _replacement(self, limit: int) -> Record | None:
        """A new trial for one whose worker, of another command, is no longer heard of; that one is given up.

        Only one worker can end a trial, so only one replaces it.
        """
        if not isinstance(self._storage, BaseHeartbeat):
            return None
        stale = set(self._storage._get_stale_trial_ids(self._id))
        for record in self.records():
            if record.key in stale and self._give_up(record.key, "its worker is no longer heard of"):
                facts = {name: value for name, value in record.facts.items() if name != "worker"}
                found = self.claim(record.action, facts, limit)
                if found is not None:
                    return found
        return None

    def _give_up(self, key: int, reason: str) -> bool:
        """False where it has ended, or was given up by another."""
        try:
            self._storage.set_trial_user_attr(key, _GIVEN_UP, reason)
        except UpdateFinishedTrialError:
            return False
        return self._set_state(key, TrialState.FAIL)

    def _record(self, trial: FrozenTrial) -> Record:
        action = tuple(decision.options.index(trial.params[decision.name]) for decision in self.decisions)
        state = _STATES[trial.state]
        is_over = trial.datetime_complete is not None and trial.datetime_start is not None
        return Record(
            number=trial.number,
            action=action,
            state=state,
            score=trial.value if state == "done" else None,
            facts=trial.user_attrs,
            duration_s=(trial.datetime_complete - trial.datetime_start).total_seconds() if is_over else 0.0,
            key=trial._trial_id,
        )


def _study_id(storage: BaseStorage, name: str) -> int:
    try:
        return int(storage.get_study_id_from_name(name))
    except KeyError:
        pass
    try:
        return int(quietly(lambda: storage.create_new_study([StudyDirection.MAXIMIZE], name)))
    except DuplicatedStudyError:
        return int(storage.get_study_id_from_name(name))


@dataclass(frozen=True, slots=True)
class Stored:
    """A finished trial as a journal tells it to somebody who does not know the decisions."""

    study: str
    number: int
    choices: Mapping[str, str]  # by decision, in words
    score: float | None  # None: failed
    facts: Facts


def read_journal(path: Path) -> tuple[Stored, ...]:
    """The finished trials of all studies of a journal, which is only read; raises ConfigurationError for no journal."""
    try:
        storage = quietly(lambda: JournalStorage(JournalFileBackend(str(path))))
    except (ValueError, KeyError) as error:
        raise ConfigurationError(f"{path} is no journal of Optuna: {error}") from error
    return tuple(
        Stored(study.study_name, trial.number, trial.params, trial.value, trial.user_attrs)
        for study in storage.get_all_studies()
        for trial in storage.get_all_trials(study._study_id, deepcopy=False)
        if trial.state.is_finished() and _GIVEN_UP not in trial.user_attrs
    )
