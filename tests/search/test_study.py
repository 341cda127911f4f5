"""Studies: what is stored, what a kill leaves, what several workers share, and how searches without luck end."""

import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace

import numpy as np
import optuna
import pytest

from haqnas.errors import ConfigurationError, DeviceError
from haqnas.search.play import Stop, best_of, credit_of, play, trials_of
from haqnas.search.strategy import known_strategies
from haqnas.search.study import JOURNAL, Place, Study
from haqnas.search.workers import interruptible, play_all
from tests.search.games import DECISIONS, NEVER, facts_of, game, price_of, score_of, study_in

NAMES = sorted(known_strategies())
SLOW = {"gp"}


def silent(_records):
    pass


def played(folder, made, num_workers=1, stop=NEVER, tell=silent):
    return play_all(study_in(folder), made, num_workers, stop, tell)


# What is stored


def test_a_trial_says_in_words_what_was_tried_and_how_it_went(tmp_path):
    records, stopped = played(tmp_path, game(num_trials=20))
    assert stopped == "trials"
    assert [record.number for record in records] == list(range(20))
    study = optuna.load_study(
        study_name="net marl",
        storage=optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend(str(tmp_path / JOURNAL))
        ),
    )
    trial = study.best_trial
    assert set(trial.params) == {decision.name for decision in DECISIONS}
    assert set(trial.params.values()) <= {"w8a8", "w4a8", "w2a4"}
    facts = trial.user_attrs
    assert facts["strategy"] == "marl"
    assert (facts["seed"], facts["fidelity"], facts["accuracy"]) == (0, "ptq", trial.value)
    assert facts["latency"] == price_of(best_of(records).action)
    assert set(facts["credit"]) == {"agent0", "agent1"}
    assert facts["reason"].startswith("best so far") or trial.number == 0
    assert trial.value == max(record.score for record in records) == study.best_value


def test_credits_of_agents_sum_to_what_the_critic_says_of_the_action(tmp_path):
    made = game("random", 60)
    records, _ = played(tmp_path, made)
    best = best_of(records)
    credit = credit_of(made.task.heads, trials_of(records), best.action)
    mean = np.mean([score_of(record.action) for record in records])
    assert sum(credit.values()) == pytest.approx(best.score - mean, abs=1.0)
    assert sum(credit.values()) > 0


# Every strategy


@pytest.mark.parametrize("name", NAMES)
def test_every_strategy_goes_on_as_though_it_had_not_been_interrupted(name, tmp_path):
    count = 14 if name in SLOW else 22
    whole, _ = played(tmp_path / "whole", game(name, count, seed=3))
    assert len({record.action for record in whole}) == count
    left = [13, 5, 2] if name in SLOW else [16, 9, 2]

    def stop_after(number):
        asked = iter(range(10**6))
        return Stop(None, lambda: next(asked) >= number)

    for number in left[::-1]:
        assert played(tmp_path / "parts", game(name, count, seed=3), stop=stop_after(number))[1] in {
            "interrupted",
            "trials",
        }
    parts, stopped = played(tmp_path / "parts", game(name, count, seed=3))
    assert stopped == "trials"
    assert facts_of(parts) == facts_of(whole)
    other, _ = played(tmp_path / "other", game(name, count, seed=4))
    assert facts_of(other) != facts_of(whole)


def test_only_strategies_that_declare_a_warm_start_begin_with_the_first_actions(tmp_path):
    first = ((2, 2, 2, 2, 2, 2), (0, 0, 0, 0, 0, 0), (1, 1, 1, 1, 1, 1))  # the second is over budget
    for name, is_warm in (("marl", True), ("surrogate", True), ("random", False), ("tpe", False)):
        records, _ = played(tmp_path / name, game(name, 4, first=first))
        assert ([record.action for record in records][:2] == [first[0], first[2]]) == is_warm


# Kills


def _process(folder, made):
    def run():
        os.setsid()
        play_all(study_in(folder), made, 1, NEVER, silent)
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_killed_at_twenty_random_moments_a_search_ends_as_though_it_had_not_been(tmp_path, rng):
    count, log = 60, tmp_path / "log"
    whole, _ = played(tmp_path / "whole", game("marl", count))
    num_kills = 0
    for _ in range(1000):
        folder = tmp_path / "killed"
        process = _process(folder, game("marl", count, evaluate_s=0.01, log=log))
        if num_kills < 20:
            process.join(float(rng.uniform(0.02, 0.12)))
        else:
            process.join()
        if process.exitcode is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        num_kills += 1
    assert num_kills == 20
    killed = study_in(folder).records()
    assert facts_of(killed) == facts_of(whole)
    ends = [line for line in log.read_text().splitlines() if line.startswith("end")]
    begins = [line for line in log.read_text().splitlines() if line.startswith("begin")]
    # Once each; and again only what a kill came between.
    assert len(set(ends)) == count
    assert len(begins) <= count + 20
    assert len(ends) <= count + 20


def test_a_line_that_a_kill_cut_short_is_no_harm(tmp_path):
    played(tmp_path / "whole", game(num_trials=12))
    played(tmp_path / "cut", game(num_trials=12), stop=Stop(None, iter([False] * 6 + [True] * 9).__next__))
    path = tmp_path / "cut" / JOURNAL
    text = path.read_bytes()
    path.write_bytes(text[:-20])
    records, _ = played(tmp_path / "cut", game(num_trials=12))
    assert facts_of(records) == facts_of(study_in(tmp_path / "whole").records())
    assert all(json.loads(line) for line in path.read_text().splitlines())


# Several workers


@pytest.mark.parametrize("name", ["marl", "tpe", "random"])
def test_workers_share_the_trials_and_try_nothing_twice(name, tmp_path):
    log = tmp_path / "log"
    told = []

    def tell(records):
        told.append(sum(record.is_finished for record in records))

    records, stopped = played(tmp_path / "study", game(name, 40, evaluate_s=0.01, log=log), 3, tell=tell)
    assert stopped == "trials"
    assert len(records) == len({record.action for record in records}) == 40
    assert all(record.state == "done" for record in records)
    begins = [line for line in log.read_text().splitlines() if line.startswith("begin")]
    assert len(begins) == len(set(begins)) == 40
    assert len({record.facts["worker"] for record in records}) > 1
    assert told[-1] == 40


def test_of_equal_claims_the_lowest_number_wins_and_surplus_ones_are_given_up(tmp_path):
    one, two = study_in(tmp_path), study_in(tmp_path)
    first = one.claim((0, 1, 2, 0, 1, 2), {}, 2)
    assert (first.number, first.state) == (0, "running")
    assert two.claim((0, 1, 2, 0, 1, 2), {}, 2) is None
    assert two.claim((1, 1, 1, 1, 1, 1), {}, 2) is not None
    assert one.claim((2, 2, 2, 2, 2, 2), {}, 2) is None
    assert [record.action for record in two.records()] == [(0, 1, 2, 0, 1, 2), (1, 1, 1, 1, 1, 1)]


def test_a_small_space_is_used_up_by_several_workers(tmp_path):
    records, stopped = played(
        tmp_path, game("random", 1000, price=lambda action: float(action[:4] != (0, 1, 2, 0)) * 2), 2
    )
    assert stopped == "space"
    assert len(records) == len({record.action for record in records}) == 9


def test_a_worker_that_dies_leaves_its_trial_to_others(tmp_path):
    victim, parent = tmp_path / "victim", os.getpid()

    def deadly(action):
        if os.getpid() != parent and not victim.exists():
            victim.write_text("")
            os.kill(os.getpid(), signal.SIGKILL)
        return score_of(action)

    records, stopped = played(tmp_path / "study", game("random", 12, evaluate_s=0.02, score=deadly), 2)
    assert stopped == "trials"
    assert [record.state for record in records] == ["done"] * 12


def test_where_all_workers_die_the_error_says_so(tmp_path):
    parent = os.getpid()

    def deadly(_action):
        assert os.getpid() != parent
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(DeviceError, match=r"all 2 workers were killed \(signal 9\).*fewer --workers"):
        played(tmp_path / "study", game("random", 12, score=deadly), 2)


def test_a_mistake_of_ours_in_a_worker_is_told_with_its_place(tmp_path):
    def wrong(_action):
        raise ZeroDivisionError("of our making")

    with pytest.raises(RuntimeError, match="of our making"):
        played(tmp_path / "study", game("random", 12, score=wrong), 2)


# Ends


@pytest.mark.parametrize("name", NAMES)
def test_failures_are_results_and_no_number_is_one(name, tmp_path):
    count = 10 if name in SLOW else 14

    def unlucky(action):
        return (score_of(action), None, float("nan"), score_of(action))[sum(action) % 4]

    records, stopped = played(tmp_path, game(name, count, score=unlucky))
    assert stopped == "trials"
    for record in records:
        case = sum(record.action) % 4
        assert (record.state == "failed") == (case in {1, 2})
        if case == 1:
            assert record.facts["failure"] == "layer3 cannot be lowered"
            assert record.facts["failure_code"] == "UNSUPPORTED_MODEL"
        if case == 2:
            assert record.facts["failure"].startswith("the score is nan")
            assert record.facts["accuracy"] is None


def test_where_all_fail_there_is_no_best(tmp_path):
    records, stopped = played(tmp_path, game(num_trials=5, score=lambda _: None))
    assert (stopped, len(records), best_of(records)) == ("trials", 5, None)


def test_a_budget_nobody_can_meet_and_no_decision_end_at_once(tmp_path):
    assert played(tmp_path, game(price=lambda _: 2.0)) == ((), "space")
    study = study_in(tmp_path, "none", ())
    made = game("marl")
    alone = replace(
        made,
        task=replace(made.task, heads=replace(made.task.heads, heads=(), pairs=())),
        known=lambda _: {},
        evaluate=lambda _: made.evaluate((0, 0, 0, 0, 0, 0)),
    )
    alone = replace(alone, task=replace(alone.task, price=lambda _: 1.0))
    records, stopped = play_all(study, alone, 1, NEVER, silent)
    assert (stopped, [record.action for record in records]) == ("space", [()])


def test_time_ends_a_search_once_a_trial_is_done(tmp_path):
    stop = Stop(time.monotonic() - 1, lambda: False)
    records, stopped = played(tmp_path, game("random", 50, score=lambda a: None if a[0] else 1.0), stop=stop)
    assert stopped == "time"
    assert [record.state for record in records] == ["failed"] * (len(records) - 1) + ["done"]


def test_ctrl_c_once_ends_after_the_trial_and_twice_at_once(tmp_path):
    notes = []
    with interruptible(notes.append) as is_interrupted:
        assert not is_interrupted()
        os.kill(os.getpid(), signal.SIGINT)
        assert is_interrupted()
        assert notes == [
            "interrupted: the best so far is compiled when this trial is done; Ctrl-C again to end now"
        ]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        records, stopped = played(tmp_path, game(), stop=Stop(None, is_interrupted))
    assert (records, stopped) == ((), "interrupted")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# Databases


def test_a_database_holds_the_same_and_a_dead_commands_trial_is_another_ones_to_take(tmp_path, monkeypatch):
    url = f"sqlite:///{tmp_path}/study.db"
    mine = Study(Place(None, url, "mine"), "net marl", DECISIONS)
    left = mine.claim((0, 1, 2, 0, 1, 2), {"worker": 0}, 30)
    other = Study(Place(None, url, "other"), "net marl", DECISIONS)
    other.release()
    assert other.take_over(30) is None  # it may be alive
    monkeypatch.setattr(other._storage, "grace_period", -1)
    taken = other.take_over(30)
    assert (taken.number, taken.action) == (1, left.action)
    other.finish(taken, 1.0, {})
    mine.finish(left, 2.0, {})  # too late
    assert [(record.number, record.score) for record in mine.records()] == [(1, 1.0)]
    mine.close()
    other.close()


def test_a_run_takes_over_its_own_trial_of_a_database_at_once(tmp_path):
    place = Place(None, f"sqlite:///{tmp_path}/study.db", "mine")
    whole, _ = played(tmp_path / "whole", game(num_trials=6))
    made = game(num_trials=6)
    study = Study(place, "net marl", DECISIONS)
    for record in whole[:2]:
        claimed = study.claim(record.action, {**record.facts, "owner": "mine"}, 6)
        if record.number == 0:
            study.finish(claimed, record.score, record.facts)
    records, _ = play_all(Study(place, "net marl", DECISIONS), made, 1, NEVER, silent)
    assert [(r.action, r.score) for r in records] == [(r.action, r.score) for r in whole]
    study.copy_to(tmp_path / "copy.journal")
    study.close()
    copied = Study(Place(tmp_path / "copy.journal", None, ""), "net marl", DECISIONS)
    assert [(r.action, r.score) for r in copied.records()] == [(r.action, r.score) for r in records]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (
            "postgresql://me:secret@127.0.0.1:1/none",
            r"postgresql://me:\*\*\*@127.0.0.1:1/none cannot be used",
        ),
        ("oracle://x/y", "its driver is not installed"),
        ("luck", "--study luck cannot be used"),
    ],
)
def test_a_database_that_cannot_be_used_is_told_without_its_password(url, words):
    with pytest.raises(ConfigurationError, match=words):
        Study(Place(None, url, ""), "net", DECISIONS)


def test_playing_needs_no_storage_of_its_own(tmp_path):
    study = study_in(tmp_path)
    assert play(study, game(num_trials=3), 0, NEVER, silent) == "trials"
    assert len(study.records()) == 3
