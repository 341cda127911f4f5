/* The team: each task once, sections in order, several callers, workers that sleep, a fork, an end
 * without leaks. */
#define _GNU_SOURCE /* POSIX calls under -std=c11 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "haqnas_runtime.h"

enum { SECTIONS = 12, TASKS = 37, RUNS = 400, CALLERS = 3 };

/* Sections of one task and of several, also more than there are threads. */
static const uint16_t first[SECTIONS + 1] = {0, 1, 3, 4, 8, 15, 16, 17, 19, 25, 29, 35, TASKS};

#define CHECK(condition) check((condition), #condition, __LINE__)

static void check(int is_true, const char* text, int line) {
  if (is_true) return;
  fprintf(stderr, "test_team.c:%d: not true: %s\n", line, text);
  exit(1);
}

/* What one run leaves behind. `began` is plain memory: only the section's order keeps its readers
 * from its writer. */
typedef struct {
  int began[TASKS];
  int seen[TASKS]; /* tasks of earlier sections that had begun */
  pthread_t caller;
  atomic_int wrong_thread; /* sections of one task that a worker ran */
} record;

#ifdef FAILING_START
int failing_start(pthread_t* thread, const pthread_attr_t* attributes, void* (*work)(void*),
                  void* place) {
  (void)thread, (void)attributes, (void)work, (void)place;
  return EAGAIN;
}
#endif

static int section_of(int task) {
  int section = 0;
  while (first[section + 1] <= task) ++section;
  return section;
}

static void run_task(const void* context, int task) {
  record* r = *(record* const*)context;
  const int section = section_of(task);
  for (int i = 0; i < first[section]; ++i) r->seen[task] += r->began[i];
  r->began[task] += 1;
  if (first[section + 1] - first[section] == 1 && !pthread_equal(pthread_self(), r->caller))
    atomic_fetch_add(&r->wrong_thread, 1);
}

static const haqnas_sections sections = {run_task, first, SECTIONS};

static void run_and_check(int threads) {
  record r = {.caller = pthread_self()};
  record* const place = &r;
  haqnas_team_run(&sections, &place, threads);
  for (int task = 0; task < TASKS; ++task) {
    CHECK(r.began[task] == 1);
    CHECK(r.seen[task] == first[section_of(task)]);
  }
  CHECK(r.wrong_thread == 0);
}

static void* run_often(void* threads) {
  for (int run = 0; run < RUNS; ++run) run_and_check(*(const int*)threads);
  return NULL;
}

static void test_each_task_runs_once_and_in_order(void) {
  for (int threads = 0; threads <= 5; ++threads) run_often(&threads);
  run_and_check(HAQNAS_MAX_THREADS + 1);
}

static void test_workers_that_sleep_are_woken(void) {
  const struct timespec pause = {0, 2000000};
  for (int run = 0; run < 20; ++run) {
    nanosleep(&pause, NULL);
    run_and_check(4);
  }
}

#ifndef FAILING_START /* which starts no callers either */
static void test_callers_at_once(void) {
  pthread_t callers[CALLERS];
  int threads[CALLERS] = {2, 4, 3};
  for (int i = 0; i < CALLERS; ++i)
    CHECK(pthread_create(&callers[i], NULL, run_often, &threads[i]) == 0);
  for (int i = 0; i < CALLERS; ++i) CHECK(pthread_join(callers[i], NULL) == 0);
}
#endif

/* A fork has no workers; it must neither wait for them nor join them at its end. */
static void test_a_fork_works_alone(void) {
  const pid_t child = fork();
  if (child == 0) {
    run_and_check(4);
    exit(0);
  }
  int status = 1;
  CHECK(child > 0 && waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  run_and_check(4);
}

int main(void) {
  test_each_task_runs_once_and_in_order();
  test_workers_that_sleep_are_woken();
#ifndef FAILING_START
  test_callers_at_once();
#endif
  test_a_fork_works_alone();
  return 0;
}
