/* The team: the caller of <model>_run and some workers, which walk through the sections of a
 * program together.
 *
 * A section is one task, run by the caller, or several tasks, run at once; a section begins when
 * all tasks of those before it are done. Each member first takes the tasks that are its own (the
 * same rows of an image in every section, so that they are in its core's cache), then those that
 * nobody has begun. So nobody waits for a worker that sleeps, was preempted or never started:
 * waiting is only for a task that runs.
 *
 * Tasks have numbers that grow from run to run. `claims[p]` holds the number of the latest task p
 * of a section that was begun: a worker that is late, even by whole runs, finds every number that
 * it knows taken. It reads `context` only after a claim, and the run cannot end before that task is
 * done. So the caller never waits for workers to leave; they may read `sections` after the run. */
#define _GNU_SOURCE /* POSIX and Linux calls under -std=c11 */
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "haqnas_runtime.h"

/* A worker looks for the next run so long before it sleeps: waking it costs the caller some
 * microseconds. */
#define IDLE_NS 200000
/* A wait for a running task spins so often (20 to 50 us on x86) before it lets others have the CPU.
 */
#define WAIT_SPINS 1000
/* A wait before the tasks of others are looked at, which would take their cache lines from them. */
#define PATIENCE_SPINS 16
#define STACK_BYTES (1 << 20)

/* A number on a cache line of its own. */
typedef struct {
  _Alignas(HAQNAS_ALIGNMENT) _Atomic uint64_t number;
} line;

/* A run, as a member sees it. */
typedef struct {
  const haqnas_sections* sections;
  const void* context;
  uint64_t base;   /* number of its first task */
  uint64_t before; /* tasks that its members had done when it began */
  int members;
} run;

static line claims[HAQNAS_MAX_THREADS];

/* Tasks that each member has done in all runs. One counter for all would cost every member a cache
 * line that it must first take from another. */
static line done[HAQNAS_MAX_THREADS];

/* Written by the caller that has the team: run number `epoch` is in one place, the next will be in
 * the other. On lines of their own: idle workers read the epoch all the time. */
static struct {
  _Alignas(HAQNAS_ALIGNMENT) _Atomic(const haqnas_sections*) sections;
  _Atomic(const void*) context;
  _Atomic uint64_t base;
  _Atomic uint64_t before;
  atomic_int members;
} runs[2];
static _Alignas(HAQNAS_ALIGNMENT) atomic_uint epoch;

static _Alignas(HAQNAS_ALIGNMENT) atomic_int sleepers;
static atomic_int is_stopped;
static atomic_int is_busy;

/* Of the caller that has the team. */
static pthread_t workers[HAQNAS_MAX_THREADS];
static int worker_count;
static uint64_t next_number = 1;
static int is_full; /* each CPU has a thread, or Linux starts no more; not tried again */
static pid_t owner; /* of the workers: a fork has none of them */

static void relax(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("isb"); /* `yield` does nothing on most cores; this takes some ten nanoseconds */
#elif defined(__riscv)
  __asm__ volatile(".insn i 0x0f, 0, x0, x0, 0x010"); /* pause, a hint that older cores ignore */
#endif
}

static int64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void futex(int operation, unsigned value) {
  syscall(SYS_futex, (unsigned*)&epoch, operation, value, NULL, NULL, 0);
}

static void run_task(const run* r, int member, int task) {
  r->sections->run(r->context, task);
  const uint64_t before = atomic_load_explicit(&done[member].number, memory_order_relaxed);
  atomic_store_explicit(&done[member].number, before + 1, memory_order_release);
}

/* Run part `part` of a section, which is task number `task`, unless another member has begun it. */
static int try_part(const run* r, int member, int task, int part) {
  const uint64_t number = r->base + (uint64_t)task;
  uint64_t last = atomic_load_explicit(&claims[part].number, memory_order_relaxed);
  if (last >= number ||
      !atomic_compare_exchange_strong_explicit(&claims[part].number, &last, number,
                                               memory_order_relaxed, memory_order_relaxed))
    return 0;
  run_task(r, member, task);
  return 1;
}

/* Whether the first `count` tasks of the run are done. */
static int are_done(const run* r, int count) {
  uint64_t sum = 0;
  for (int m = 0; m < r->members; ++m)
    sum += atomic_load_explicit(&done[m].number, memory_order_acquire);
  return sum >= r->before + (uint64_t)count;
}

/* Wait until they are done, or for so many spins. */
static int await(const run* r, int count, int most_spins) {
  for (int spins = 0; !are_done(r, count); ++spins) {
    if (spins >= most_spins) return 0;
    relax();
    if (spins >= WAIT_SPINS) sched_yield();
  }
  return 1;
}

static void walk(const run* r, int member) {
  const uint16_t* first = r->sections->first;
  int patience = PATIENCE_SPINS;
  for (int s = 0; s < r->sections->count; ++s) {
    const int task = first[s], end = first[s + 1], parts = end - task;
    if (parts > 1) {
      int helped = 0;
      for (int p = member; p < parts; p += r->members) try_part(r, member, task + p, p);
      if (!await(r, end, patience))
        for (int p = 0; p < parts; ++p) helped |= try_part(r, member, task + p, p);
      patience = helped ? 0 : PATIENCE_SPINS;
    } else if (member == 0) {
      run_task(r, member, task);
    }
    await(r, end, INT_MAX);
#ifdef HAQNAS_MARKED
    if (member == 0 && parts > 1) r->sections->mark(r->context, s);
#endif
  }
}

/* Run number `number`; 0 where another has begun meanwhile. */
static int read_run(unsigned number, run* r) {
  r->sections = atomic_load_explicit(&runs[number % 2].sections, memory_order_acquire);
  r->context = atomic_load_explicit(&runs[number % 2].context, memory_order_acquire);
  r->base = atomic_load_explicit(&runs[number % 2].base, memory_order_acquire);
  r->before = atomic_load_explicit(&runs[number % 2].before, memory_order_acquire);
  r->members = atomic_load_explicit(&runs[number % 2].members, memory_order_acquire);
  return atomic_load_explicit(&epoch, memory_order_acquire) == number;
}

static void publish(const run* r) {
  const unsigned number = atomic_load_explicit(&epoch, memory_order_relaxed) + 1;
  atomic_store_explicit(&runs[number % 2].sections, r->sections, memory_order_release);
  atomic_store_explicit(&runs[number % 2].context, r->context, memory_order_release);
  atomic_store_explicit(&runs[number % 2].base, r->base, memory_order_release);
  atomic_store_explicit(&runs[number % 2].before, r->before, memory_order_release);
  atomic_store_explicit(&runs[number % 2].members, r->members, memory_order_release);
  atomic_store(&epoch, number);
  if (atomic_load(&sleepers)) futex(FUTEX_WAKE_PRIVATE, INT_MAX);
}

/* Wait for another run than number `seen`: spinning, then asleep. */
static unsigned next_run(unsigned seen) {
  const int64_t end_ns = now_ns() + IDLE_NS;
  unsigned number;
  for (int spins = 1; (number = atomic_load_explicit(&epoch, memory_order_acquire)) == seen;
       ++spins) {
    relax();
    if (spins % 64 || now_ns() < end_ns) continue;
    atomic_fetch_add(&sleepers, 1);
    futex(FUTEX_WAIT_PRIVATE, seen);
    atomic_fetch_sub(&sleepers, 1);
  }
  return number;
}

static void* work(void* place) {
  const int member = (int)((line*)place - done);
  for (unsigned number = 0;;) {
    run r;
    number = next_run(number);
    if (atomic_load(&is_stopped)) return NULL;
    if (read_run(number, &r) && member < r.members) walk(&r, member);
  }
}

/* Start the next worker; whether that failed. */
static int start_worker(void) {
  pthread_attr_t attributes;
  sigset_t all, before; /* signals are the program's own threads' business */
  if (pthread_attr_init(&attributes)) return 1;
  pthread_attr_setstacksize(&attributes, STACK_BYTES);
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const int failure =
      pthread_create(&workers[worker_count], &attributes, work, &done[worker_count + 1]);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attributes);
  owner = getpid();
  worker_count += !failure;
  return failure;
}

/* Start workers up to one less than `threads`; the number of members that there are now. */
static int recruit(int threads) {
  while (worker_count + 1 < threads && !is_full)
    is_full = worker_count + 1 >= haqnas_cpu_count() || start_worker();
  return worker_count + 1 < threads ? worker_count + 1 : threads;
}

static int run_together(const haqnas_sections* sections, const void* context, int threads) {
  if (atomic_exchange_explicit(&is_busy, 1, memory_order_acquire)) return 0;
  const int members = recruit(threads);
  if (members > 1) {
    run r = {sections, context, next_number, 0, members};
    for (int m = 0; m < members; ++m)
      r.before += atomic_load_explicit(&done[m].number, memory_order_relaxed);
    next_number += sections->first[sections->count];
    publish(&r);
    walk(&r, 0);
  }
  atomic_store_explicit(&is_busy, 0, memory_order_release);
  return members > 1;
}

void haqnas_team_run(const haqnas_sections* sections, const void* context, int threads) {
  const int most = threads < HAQNAS_MAX_THREADS ? threads : HAQNAS_MAX_THREADS;
  const uint16_t* first = sections->first;
  if (most > 1 && first[sections->count] > sections->count && run_together(sections, context, most))
    return;
  for (int s = 0; s < sections->count; ++s) {
    for (int task = first[s]; task < first[s + 1]; ++task) sections->run(context, task);
#ifdef HAQNAS_MARKED
    if (first[s + 1] - first[s] > 1) sections->mark(context, s);
#endif
  }
}

/* At the end of the program, or before the library is unloaded. */
__attribute__((destructor)) static void dismiss(void) {
  if (!worker_count || owner != getpid()) return;
  atomic_store(&is_stopped, 1);
  atomic_fetch_add(&epoch, 1);
  futex(FUTEX_WAKE_PRIVATE, INT_MAX);
  for (int i = 0; i < worker_count; ++i) pthread_join(workers[i], NULL);
  worker_count = 0;
}
