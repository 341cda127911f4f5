/* --bench N: time runs, each for itself, and print them as JSON. --layers N: the same for each
 * call. --repeat N: run without a clock and print nothing, so that counts of instructions repeat.
 */
#define _GNU_SOURCE /* POSIX calls under -std=c11 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "program.h"

enum { WARM_UP_RUNS = 3, MAX_RUNS = 10000000, MAX_SECONDS = 86400 };

/* A warm-up that looks at the clock: at least this long, because clocks of CPUs rise within some
 * milliseconds, until so many runs in a row are no faster by a 64th, and at most a quarter of the
 * time that there is. */
enum { SETTLED_RUNS = 5, WARM_UP_NS = 10000000 };

/* More than the caches of most machines hold, so that touching each line evicts what they held. */
enum { SWEEP_BYTES = 64 << 20 };

typedef struct {
  long runs;
  uint64_t limit_ns; /* warm-up included; 0: none, and the warm-up has WARM_UP_RUNS */
  int is_cold;
} bench_options;

/* What a benchmark did. */
typedef struct {
  uint64_t* times_ns;
  size_t count;
  size_t warm_up_count;
} timed_runs;

static uint64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Heapsort: the C library's qsort would add 10 kB to a program of 30. */
static void sift_down(uint64_t* heap, size_t at, size_t count) {
  for (size_t child; (child = 2 * at + 1) < count; at = child) {
    if (child + 1 < count && heap[child + 1] > heap[child]) ++child;
    if (heap[at] >= heap[child]) return;
    const uint64_t parent = heap[at];
    heap[at] = heap[child];
    heap[child] = parent;
  }
}

static void sort(uint64_t* values, size_t count) {
  for (size_t at = count / 2; at-- > 0;) sift_down(values, at, count);
  for (size_t last = count; last-- > 1;) {
    const uint64_t greatest = values[0];
    values[0] = values[last];
    values[last] = greatest;
    sift_down(values, 0, last);
  }
}

static void put_field(text* out, const char* name, uint64_t value) {
  put(out, ", \"");
  put(out, name);
  put(out, "\": ");
  put_count(out, value);
}

static uint64_t median(const uint64_t* sorted, size_t count) {
  return (sorted[(count - 1) / 2] + sorted[count / 2]) / 2;
}

static int put_times(const timed_runs* timed, uint64_t* sorted_ns, int threads) {
  const size_t count = timed->count;
  memcpy(sorted_ns, timed->times_ns, count * sizeof *sorted_ns);
  sort(sorted_ns, count);
  text out = {.fd = STDOUT_FILENO};
  put(&out, "{\"model\": \"");
  put(&out, HAQNAS_MODEL.name);
  put(&out, "\"");
  put_field(&out, "count", count);
  put_field(&out, "warm_up_count", timed->warm_up_count);
#ifdef HAQNAS_THREADS
  put_field(&out, "threads", (uint64_t)threads);
#else
  (void)threads;
#endif
  put_field(&out, "median_ns", median(sorted_ns, count));
  put_field(&out, "min_ns", sorted_ns[0]);
  put_field(&out, "max_ns", sorted_ns[count - 1]);
  put(&out, ", \"times_ns\": [");
  for (size_t i = 0; i < count; ++i) {
    if (i) put(&out, ", ");
    put_count(&out, timed->times_ns[i]);
  }
  put(&out, "]}\n");
  return end_output(&out);
}

long read_count(const char* word, long most) {
  char* end = NULL;
  errno = 0;
  const long count = word ? strtol(word, &end, 10) : 0;
  return !word || end == word || *end || errno || count < 1 || count > most ? 0 : count;
}

static int fail_runs(const char* runs) {
  return fail_usage(
      "--bench, --layers and --repeat take a number of runs from 1 to 10000000, but got ",
      runs ? runs : "nothing");
}

static int fail_memory(void) {
  return fail(EXIT_DEVICE, "not enough memory for the times; take fewer runs", "", "");
}

/* One run in nanoseconds; `sweep` is what evicts the caches before it, or NULL. */
static int time_run(const buffers* memory, volatile uint8_t* sweep, uint64_t* time_ns) {
  for (size_t i = 0; sweep && i < SWEEP_BYTES; i += 64) ++sweep[i];
  const uint64_t start_ns = now_ns();
  const int failure = run_once(memory);
  *time_ns = now_ns() - start_ns;
  return failure;
}

/* Runs that are not timed; counts them. */
static int warm_up(const buffers* memory, uint64_t limit_ns, size_t* count) {
  const uint64_t start_ns = now_ns();
  uint64_t least_ns = UINT64_MAX, time_ns, spent_ns = 0;
  int failure = 0, settled = 0;
  do {
    failure = time_run(memory, NULL, &time_ns);
    settled = time_ns < least_ns - least_ns / 64 ? 0 : settled + 1;
    if (time_ns < least_ns) least_ns = time_ns;
    ++*count;
    spent_ns = now_ns() - start_ns;
  } while (!failure &&
           (limit_ns ? spent_ns < limit_ns / 4 && (settled < SETTLED_RUNS || spent_ns < WARM_UP_NS)
                     : *count < WARM_UP_RUNS));
  return failure;
}

static int time_runs(const buffers* memory, const bench_options* options, timed_runs* timed) {
  volatile uint8_t* sweep = options->is_cold ? calloc(SWEEP_BYTES, 1) : NULL;
  if (options->is_cold && !sweep) return fail_memory();
  const uint64_t start_ns = now_ns();
  int failure = warm_up(memory, options->limit_ns, &timed->warm_up_count);
  do { /* at least one, however slow the device is */
    if (!failure) failure = time_run(memory, sweep, &timed->times_ns[timed->count++]);
  } while (!failure && timed->count < (size_t)options->runs &&
           (!options->limit_ns || now_ns() - start_ns < options->limit_ns));
  free((void*)sweep);
  return failure;
}

/* `N [--seconds S] [--cold]`; the exit code after a message, or 0. */
static int read_options(int count, char** words, bench_options* options) {
  const char* runs = count > 0 ? words[0] : NULL;
  if (!(options->runs = read_count(runs, MAX_RUNS))) return fail_runs(runs);
  for (int i = 1; i < count; ++i) {
    if (strcmp(words[i], "--cold") == 0) {
      options->is_cold = 1;
    } else if (strcmp(words[i], "--seconds") == 0) {
      const long seconds = read_count(++i < count ? words[i] : NULL, MAX_SECONDS);
      if (!seconds) return fail_usage("--seconds takes a number from 1 to 86400", "");
      options->limit_ns = (uint64_t)seconds * 1000000000u;
    } else {
      return fail_usage("--bench takes one number, --seconds and --cold, but got also ", words[i]);
    }
  }
  return 0;
}

int run_bench(int count, char** words, int threads) {
  bench_options options = {0};
  int failure = read_options(count, words, &options);
  if (failure) return failure;
  buffers memory = {.threads = threads};
  failure = prepare_made_up(&memory);
  uint64_t* times_ns = malloc((size_t)options.runs * sizeof *times_ns * 2);
  timed_runs timed = {.times_ns = times_ns};
  if (!failure && !times_ns) failure = fail_memory();
  if (!failure) failure = time_runs(&memory, &options, &timed);
  if (!failure) failure = put_times(&timed, times_ns + timed.count, threads);
  free(times_ns);
  release_buffers(&memory);
  return failure;
}

int run_repeat(const char* runs, int threads) {
  const long count = read_count(runs, MAX_RUNS);
  if (!count) return fail_runs(runs);
  buffers memory = {.threads = threads};
  int failure = prepare_made_up(&memory);
  /* A system call that does nothing stands around each run: by it emulators tell runs from the rest
   * of the program, whose work depends on the addresses that Linux chooses. */
  for (long i = 0; i < count && !failure; ++i) {
    (void)getppid();
    failure = run_once(&memory);
  }
  (void)getppid();
  release_buffers(&memory);
  return failure;
}

#ifdef HAQNAS_MARKED
/* Where the time of each call of the run in progress goes. */
typedef struct {
  uint64_t last_ns;
  uint64_t* times_ns; /* of this run: one per call, `stride` apart */
  size_t stride;
} stopwatch;

static void stop(void* context, int call) {
  stopwatch* watch = context;
  const uint64_t now = now_ns();
  watch->times_ns[(size_t)call * watch->stride] = now - watch->last_ns;
  watch->last_ns = now_ns(); /* read again: the clock's own cost belongs to no call */
}

int run_layers(const char* runs, int threads) {
  const long count = read_count(runs, MAX_RUNS);
  if (!count) return fail_runs(runs);
  const size_t calls = (size_t)HAQNAS_MODEL.call_count, stride = (size_t)count;
  buffers memory = {.threads = threads};
  int failure = prepare_made_up(&memory);
  uint64_t* times_ns = malloc((calls * stride + 1) * sizeof *times_ns);
  if (!failure && !times_ns) failure = fail_memory();
  for (int i = 0; i < WARM_UP_RUNS && !failure; ++i) failure = run_once(&memory);
  for (long i = 0; i < count && !failure; ++i) {
    stopwatch watch = {now_ns(), times_ns + i, stride};
    if (HAQNAS_MODEL.run_marked((const void* const*)memory.inputs, memory.outputs, memory.workspace,
#ifdef HAQNAS_THREADS
                                threads,
#endif
                                stop, &watch))
      failure = fail(EXIT_DEVICE, "the model does not run", "", "");
  }
  if (!failure) {
    text out = {.fd = STDOUT_FILENO};
    put(&out, "{\"model\": \"");
    put(&out, HAQNAS_MODEL.name);
    put(&out, "\"");
    put_field(&out, "count", stride);
    put(&out, ", \"calls\": [");
    for (size_t call = 0; call < calls; ++call) {
      sort(times_ns + call * stride, stride);
      put(&out, call ? ",\n{\"kernel\": \"" : "\n{\"kernel\": \"");
      put(&out, HAQNAS_MODEL.calls[call].kernel);
      put(&out, "\", \"layer\": \"");
      put(&out, HAQNAS_MODEL.calls[call].layer);
      put(&out, "\"");
      put_field(&out, "median_ns", median(times_ns + call * stride, stride));
      put(&out, "}");
    }
    put(&out, "]}\n");
    failure = end_output(&out);
  }
  free(times_ns);
  release_buffers(&memory);
  return failure;
}
#endif
