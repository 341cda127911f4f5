/* The executable of one model: chooses the job by its arguments. Exit codes: 0 done; others in
 * program.h. */
#define _GNU_SOURCE /* POSIX calls under -std=c11 */
#include <string.h>
#include <unistd.h>

#include "program.h"

static void put_usage(text* out) {
  put(out, "usage: ");
  put(out, HAQNAS_MODEL.name);
  for (int32_t i = 0; i < HAQNAS_MODEL.input_count; ++i) put(out, " INPUT.bin");
  put(out,
      " -o OUTDIR\n"
      "  INPUT.bin     raw bytes of one input, in the model's order; several records back to back\n"
      "                run the model once for each\n"
      "  -o OUTDIR     write output0.bin, output1.bin ... there\n"
      "  --bench N     time N runs on made-up input and print one JSON object, nanoseconds\n"
      "    --seconds S   warm up until times settle, and stop after S seconds\n"
      "    --cold        evict the caches before each run\n"
      "  --repeat N    run N times without a clock and print nothing, for counters\n"
#ifdef HAQNAS_MARKED
      "  --layers N    the same for each kernel call: medians of N runs\n"
#endif
      "  --golden      run the built-in self test\n"
#ifdef HAQNAS_THREADS
      "  --threads M   run with at most M threads, for each of the above\n"
#endif
      "  --info        print inputs, outputs, workspace and CPU features as JSON\n"
      "  --version     print the name and version\n"
      "  --help        print this\n");
}

static int print(const char* first, const char* second, const char* third) {
  text out = {.fd = STDOUT_FILENO};
  put(&out, first);
  put(&out, second);
  put(&out, third);
  put(&out, "\n");
  return end_output(&out);
}

static int is_word(const char* argument, const char* word) { return strcmp(argument, word) == 0; }

static int fail_count(int32_t count) {
  text out = error_line();
  put(&out, "the model takes ");
  put_count(&out, (uint64_t)HAQNAS_MODEL.input_count);
  put(&out, " input file(s), but got ");
  put_count(&out, (uint64_t)count);
  put(&out, "; --help shows what there is");
  return end_line(&out, EXIT_USAGE);
}

/* `INPUT.bin... -o OUTDIR`; the paths of the inputs are gathered at the front of argv. */
static int run_arguments(int argc, char** argv, int threads) {
  const char* folder = NULL;
  int32_t count = 0;
  for (int i = 1; i < argc; ++i) {
    if (is_word(argv[i], "-o")) {
      if (++i == argc) return fail_usage("-o takes a folder, but got nothing", "");
      folder = argv[i];
    } else if (argv[i][0] == '-') {
      return fail_usage("unknown option ", argv[i]);
    } else {
      argv[count++] = argv[i];
    }
  }
  if (count != HAQNAS_MODEL.input_count) return fail_count(count);
  if (!folder) return fail_usage("say where the outputs go: -o OUTDIR", "");
  return run_files((const char* const*)argv, folder, threads);
}

#ifdef HAQNAS_THREADS
/* The value of --threads, which is taken out of argv; the model's own number where it is not there,
 * 0 where it is wrong. */
static int take_threads(int* argc, char** argv) {
  int threads = HAQNAS_MODEL.threads, count = 0;
  for (int i = 0; i < *argc; ++i) {
    if (is_word(argv[i], "--threads"))
      threads = (int)read_count(++i < *argc ? argv[i] : NULL, HAQNAS_MODEL.threads);
    else
      argv[count++] = argv[i];
  }
  *argc = count;
  return threads;
}

static int fail_threads(void) {
  text out = error_line();
  put(&out, "--threads takes a number from 1 to ");
  put_count(&out, (uint64_t)HAQNAS_MODEL.threads);
  put(&out, ", which the model was compiled for; --help shows what there is");
  return end_line(&out, EXIT_USAGE);
}
#endif

int main(int argc, char** argv) {
#ifdef HAQNAS_THREADS
  const int threads = take_threads(&argc, argv);
  if (!threads) return fail_threads();
#else
  const int threads = 1;
#endif
  const char* first = argc > 1 ? argv[1] : "--help";
  const int is_alone = argc <= 2;
  if (is_word(first, "--bench")) return run_bench(argc - 2, argv + 2, threads);
  if (is_word(first, "--repeat")) {
    if (argc > 3) return fail_usage("--repeat takes one number, but got also ", argv[3]);
    return run_repeat(argc > 2 ? argv[2] : NULL, threads);
  }
#ifdef HAQNAS_MARKED
  if (is_word(first, "--layers")) {
    if (argc > 3) return fail_usage("--layers takes one number, but got also ", argv[3]);
    return run_layers(argc > 2 ? argv[2] : NULL, threads);
  }
#endif
  if (is_alone && is_word(first, "--golden")) return run_golden(threads);
  if (is_alone && is_word(first, "--info")) return print(HAQNAS_MODEL.info_json, "", "");
  if (is_alone && is_word(first, "--version"))
    return print(HAQNAS_MODEL.name, ", compiled by haqnas ", HAQNAS_MODEL.version);
  if (is_alone && (is_word(first, "--help") || is_word(first, "-h"))) {
    text out = {.fd = argc > 1 ? STDOUT_FILENO : STDERR_FILENO};
    put_usage(&out);
    flush(&out);
    return argc > 1 ? 0 : EXIT_USAGE;
  }
  return run_arguments(argc, argv, threads);
}
