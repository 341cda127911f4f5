/* cpu.c against what Linux lists in /proc/cpuinfo; AMX apart, since its permission can be refused.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "haqnas_runtime.h"

#if defined(__x86_64__)
static const char architecture[] = "x86_64", line_name[] = "flags";
#elif defined(__aarch64__)
static const char architecture[] = "aarch64", line_name[] = "Features";
#else
static const char architecture[] = "riscv64", line_name[] = "isa";
#endif

typedef struct {
  const char* enumerator;
  const char* name;
  const char* architecture;
} row;

static const row table[] = {
#define HAQNAS_CPU_FEATURE(enumerator, name, architecture) {#enumerator, name, #architecture},
#include "cpu_features.inc"
#undef HAQNAS_CPU_FEATURE
};

/* Linux's words, where they are not LLVM's. */
static const char* linux_word(const char* name) {
  static const char* const pairs[][2] = {{"sse4.2", "sse4_2"},   {"bmi", "bmi1"},
                                         {"lzcnt", "abm"},       {"avx512vnni", "avx512_vnni"},
                                         {"crc", "crc32"},       {"fp16", "asimdhp"},
                                         {"dotprod", "asimddp"}, {"lse", "atomics"},
                                         {"rcpc", "lrcpc"},      {"rdm", "asimdrdm"}};
  for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; ++i)
    if (strcmp(name, pairs[i][0]) == 0) return pairs[i][1];
  return name;
}

static int has_word(const char* line, const char* word) {
  const size_t length = strlen(word);
  for (const char* at = line; (at = strstr(at, word)); at += length)
    if (at > line && at[-1] == ' ' && (at[length] == ' ' || at[length] == '\n')) return 1;
  return 0;
}

int main(void) {
  static char line[65536];
  FILE* file = fopen("/proc/cpuinfo", "r");
  int is_found = 0, failures = 0;
  while (file && !is_found && fgets(line, sizeof line, file))
    is_found = strncmp(line, line_name, strlen(line_name)) == 0;
  if (!is_found) {
    fprintf(stderr, "/proc/cpuinfo has no line %s\n", line_name);
    return 1;
  }
  fclose(file);
  for (int bit = 0; bit < HAQNAS_CPU_BIT_COUNT; ++bit) {
    const row* feature = &table[bit];
    const int is_missing = haqnas_cpu_missing(UINT64_C(1) << bit) != 0;
    const int is_ours = strcmp(feature->architecture, architecture) == 0;
    if (strcmp(haqnas_cpu_feature_name(bit), feature->name) != 0) ++failures;
    if (strncmp(feature->name, "amx", 3) == 0 || strcmp(feature->name, "v") == 0) {
      if (!is_ours && !is_missing) ++failures;
      continue;
    }
    if (is_missing != !(is_ours && has_word(line, linux_word(feature->name)))) {
      fprintf(stderr, "%s: /proc/cpuinfo says otherwise\n", feature->name);
      ++failures;
    }
  }
  if (strcmp(haqnas_cpu_feature_name(-1), "unknown") != 0) ++failures;
  if (strcmp(haqnas_cpu_feature_name(HAQNAS_CPU_BIT_COUNT), "unknown") != 0) ++failures;
  if (haqnas_cpu_missing(0) != 0) ++failures;
  return failures != 0;
}
