/* Takes the place of cpu.c: a CPU without the features that a test names, and as many as it names.
 */
#include "fake_cpu.h"

uint64_t fake_missing = FAKE_MISSING;

uint64_t haqnas_cpu_missing(uint64_t required) { return required | fake_missing; }

int haqnas_cpu_count(void) { return FAKE_CPUS; }

const char* haqnas_cpu_feature_name(int bit) {
  static const char* const names[] = {
#define HAQNAS_CPU_FEATURE(enumerator, name, architecture) name,
#include "cpu_features.inc"
#undef HAQNAS_CPU_FEATURE
  };
  return names[bit];
}
