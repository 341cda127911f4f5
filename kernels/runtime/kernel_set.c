/* The executable of a kernel set: times each call of each segment, or marks them for an emulator
 * that counts. Exit codes as the executable of a model. */
#define _GNU_SOURCE /* POSIX calls under -std=c11 */
#include "kernel_set.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { WARM_UP_RUNS = 2, LEAST_RUNS = 5, MOST_RUNS = 100000, MOST_MS = 3600000 };

static uint64_t clock_ns(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t now_ns(void) { return clock_ns(CLOCK_MONOTONIC); }

static int compare(const void* a, const void* b) {
  const uint64_t left = *(const uint64_t*)a, right = *(const uint64_t*)b;
  return (left > right) - (left < right);
}

static void sort(uint64_t* values, size_t count) { qsort(values, count, sizeof *values, compare); }

/* A number from 1 to `most`, or 0. */
static long number(const char* word, long most) {
  char* end = NULL;
  errno = 0;
  const long value = strtol(word, &end, 10);
  return end == word || *end || errno || value < 1 || value > most ? 0 : value;
}

/* Where the times of the segment in progress go: of one call `stride` apart. */
typedef struct {
  uint64_t last_ns;
  uint64_t* next_ns;
  size_t stride;
} stopwatch;

static void stop(void* context) {
  stopwatch* watch = context;
  const uint64_t now = now_ns();
  *watch->next_ns = now - watch->last_ns;
  watch->next_ns += watch->stride;
  watch->last_ns = now_ns(); /* read again: the clock's own cost belongs to no call */
}

/* A system call that nothing else makes and that does nothing: emulators see it. */
static void mark(void* context) {
  (void)context;
  syscall(SYS_getppid);
}

static void skip(void* context) { (void)context; }

static void run_segment(const buffers* memory, int segment, haqnas_after after, void* context) {
  HAQNAS_SET.segments[segment].run((const void* const*)memory->inputs, memory->outputs,
                                   memory->workspace, after, context);
}

/* Of a run that nothing disturbs, in picoseconds: the mean of the samples from the 5th to the 30th
 * hundredth. A mean, because clocks that tick every 10 ns would cut a quantile of 55 to 50 or 60;
 * that low, because on a busy machine most samples may be disturbed. */
static uint64_t undisturbed_ps(const uint64_t* sorted_ns, size_t count) {
  const size_t first = count / 20, end = count - count * 7 / 10;
  uint64_t sum_ns = 0;
  for (size_t i = first; i < end; ++i) sum_ns += sorted_ns[i];
  return sum_ns * 1000 / (end - first);
}

/* What the clock shows for a call that does nothing. */
static uint64_t empty_ps(void) {
  uint64_t times_ns[64];
  stopwatch watch = {now_ns(), times_ns, 1};
  for (int i = 0; i < 64; ++i) stop(&watch);
  sort(times_ns, 64);
  return undisturbed_ps(times_ns, 64);
}

/* [undisturbed, median, 90th hundredth] */
static void put_times(text* out, uint64_t* times_ns, size_t count) {
  sort(times_ns, count);
  put(out, "[");
  put_count(out, undisturbed_ps(times_ns, count));
  put(out, ", ");
  put_count(out, times_ns[count / 2] * 1000);
  put(out, ", ");
  put_count(out, times_ns[count - 1 - count / 10] * 1000);
  put(out, "]");
}

/* Of one run as a whole. Where a machine is busy, every run of some milliseconds is preempted: then
 * what counts is how long it had the core. (That clock costs more, so the other counts else.) */
static uint64_t whole_ns(const buffers* memory, int segment) {
  const uint64_t begin_ran_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID), begin_ns = now_ns();
  run_segment(memory, segment, skip, NULL);
  const uint64_t passed_ns = now_ns() - begin_ns;
  const uint64_t ran_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID) - begin_ran_ns;
  return ran_ns < passed_ns ? ran_ns : passed_ns;
}

/* Runs of one segment, at most `count`, no more after `limit_ns` but a few: in turn the whole,
 * whose times come first in `times_ns`, and call by call. */
static void time_segment(text* out, const buffers* memory, int segment, size_t count,
                         uint64_t limit_ns, uint64_t* times_ns) {
  const size_t calls = (size_t)HAQNAS_SET.segments[segment].call_count;
  for (int i = 0; i < WARM_UP_RUNS; ++i) run_segment(memory, segment, skip, NULL);
  const uint64_t begin_ns = now_ns();
  size_t runs = 0;
  while (runs < count && (runs < LEAST_RUNS || now_ns() - begin_ns < limit_ns)) {
    times_ns[runs] = whole_ns(memory, segment);
    stopwatch watch = {0, times_ns + count + runs, count};
    watch.last_ns = now_ns();
    run_segment(memory, segment, stop, &watch);
    ++runs;
  }
  put(out, "{\"runs\": ");
  put_count(out, runs);
  put(out, ", \"total_ps\": ");
  put_times(out, times_ns, runs);
  put(out, ", \"calls_ps\": [");
  for (size_t call = 1; call <= calls; ++call) {
    if (call > 1) put(out, ", ");
    put_times(out, times_ns + call * count, runs);
  }
  put(out, "]}");
}

static int time_all(const buffers* memory, size_t count, uint64_t limit_ns) {
  size_t most = 0;
  for (int s = 0; s < HAQNAS_SET.segment_count; ++s)
    if ((size_t)HAQNAS_SET.segments[s].call_count > most)
      most = (size_t)HAQNAS_SET.segments[s].call_count;
  uint64_t* times_ns = malloc((most + 1) * count * sizeof *times_ns);
  if (!times_ns)
    return fail(EXIT_DEVICE, "not enough memory for the times; take fewer runs", "", "");
  text out = {.fd = STDOUT_FILENO};
  put(&out, "{\"set\": \"");
  put(&out, HAQNAS_MODEL.name);
  put(&out, "\", \"empty_ps\": ");
  put_count(&out, empty_ps());
  put(&out, ", \"segments\": [");
  for (int s = 0; s < HAQNAS_SET.segment_count; ++s) {
    if (s) put(&out, ",\n");
    time_segment(&out, memory, s, count, limit_ns, times_ns);
  }
  put(&out, "]}\n");
  free(times_ns);
  return end_output(&out);
}

/* Two marks with nothing between; then for each segment a mark after the whole of it, which nothing
 * marked, and one after each of its calls. The emulator's log has the rest. */
static int mark_all(const buffers* memory) {
  mark(NULL);
  mark(NULL);
  for (int s = 0; s < HAQNAS_SET.segment_count; ++s) {
    run_segment(memory, s, skip, NULL);
    mark(NULL);
    run_segment(memory, s, mark, NULL);
  }
  return 0;
}

int main(int argc, char** argv) {
  const int is_timed = argc == 4 && strcmp(argv[1], "--times") == 0;
  const int is_marked = argc == 2 && strcmp(argv[1], "--marks") == 0;
  if (argc == 2 && strcmp(argv[1], "--golden") == 0) return run_golden(1);
  const long count = is_timed ? number(argv[2], MOST_RUNS) : 1;
  const long limit_ms = is_timed ? number(argv[3], MOST_MS) : 1;
  if (!(is_timed || is_marked) || !count || !limit_ms)
    return fail_usage("a kernel set takes --times RUNS MILLISECONDS, --marks or --golden", "");
  buffers memory = {.threads = 1};
  int failure = prepare_made_up(&memory);
  if (!failure)
    failure = is_timed ? time_all(&memory, (size_t)(count < LEAST_RUNS ? LEAST_RUNS : count),
                                  (uint64_t)limit_ms * 1000000)
                       : mark_all(&memory);
  release_buffers(&memory);
  return failure;
}
