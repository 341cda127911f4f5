/* --bench N: time runs, each for itself, and print them as JSON. */
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

static int compare(const void* left, const void* right) {
  const uint64_t a = *(const uint64_t*)left, b = *(const uint64_t*)right;
  return (a > b) - (a < b);
}

static void put_field(text* out, const char* name, uint64_t value) {
  put(out, ", \"");
  put(out, name);
  put(out, "\": ");
  put_count(out, value);
}

static int put_times(const uint64_t* times_ns, uint64_t* sorted_ns, size_t count) {
  memcpy(sorted_ns, times_ns, count * sizeof *sorted_ns);
  qsort(sorted_ns, count, sizeof *sorted_ns, compare);
  text out = {.fd = STDOUT_FILENO};
  put(&out, "{\"model\": \"");
  put(&out, HAQNAS_MODEL.name);
  put(&out, "\"");
  put_field(&out, "count", count);
  put_field(&out, "warm_up_count", WARM_UP_RUNS);
  put_field(&out, "median_ns", (sorted_ns[(count - 1) / 2] + sorted_ns[count / 2]) / 2);
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

int run_bench(const char* runs) {
  char* end = NULL;
  errno = 0;
  const long count = runs ? strtol(runs, &end, 10) : 0;
  if (!runs || end == runs || *end || errno || count < 1 || count > MAX_RUNS)
    return fail_usage("--bench takes a number of runs from 1 to 10000000, but got ",
                      runs ? runs : "nothing");
  buffers memory;
  int failure = prepare_made_up(&memory);
  if (failure) return failure;
  uint64_t* times_ns = malloc((size_t)count * sizeof *times_ns * 2);
  if (!times_ns)
    return fail(EXIT_DEVICE, "not enough memory for the times; take fewer runs", "", "");
  for (int i = 0; i < WARM_UP_RUNS && !failure; ++i) failure = run_once(&memory);
  for (long i = 0; i < count && !failure; ++i) {
    const uint64_t start_ns = now_ns();
    failure = run_once(&memory);
    times_ns[i] = now_ns() - start_ns;
  }
  return failure ? failure : put_times(times_ns, times_ns + count, (size_t)count);
}
