/* --bench N: time runs, each for itself, and print them as JSON. --layers N: the same for each
 * call. */
#define _GNU_SOURCE /* POSIX calls under -std=c11 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "program.h"

enum { WARM_UP_RUNS = 3, MAX_RUNS = 10000000 };

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

static int put_times(const uint64_t* times_ns, uint64_t* sorted_ns, size_t count, int threads) {
  memcpy(sorted_ns, times_ns, count * sizeof *sorted_ns);
  sort(sorted_ns, count);
  text out = {.fd = STDOUT_FILENO};
  put(&out, "{\"model\": \"");
  put(&out, HAQNAS_MODEL.name);
  put(&out, "\"");
  put_field(&out, "count", count);
  put_field(&out, "warm_up_count", WARM_UP_RUNS);
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
    put_count(&out, times_ns[i]);
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
  return fail_usage("--bench and --layers take a number of runs from 1 to 10000000, but got ",
                    runs ? runs : "nothing");
}

int run_bench(const char* runs, int threads) {
  const long count = read_count(runs, MAX_RUNS);
  if (!count) return fail_runs(runs);
  buffers memory = {.threads = threads};
  int failure = prepare_made_up(&memory);
  uint64_t* times_ns = malloc((size_t)count * sizeof *times_ns * 2);
  if (!failure && !times_ns)
    failure = fail(EXIT_DEVICE, "not enough memory for the times; take fewer runs", "", "");
  for (int i = 0; i < WARM_UP_RUNS && !failure; ++i) failure = run_once(&memory);
  for (long i = 0; i < count && !failure; ++i) {
    const uint64_t start_ns = now_ns();
    failure = run_once(&memory);
    times_ns[i] = now_ns() - start_ns;
  }
  if (!failure) failure = put_times(times_ns, times_ns + count, (size_t)count, threads);
  free(times_ns);
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
  if (!failure && !times_ns)
    failure = fail(EXIT_DEVICE, "not enough memory for the times; take fewer runs", "", "");
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
