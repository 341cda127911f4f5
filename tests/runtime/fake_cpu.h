#ifndef HAQNAS_FAKE_CPU_H_
#define HAQNAS_FAKE_CPU_H_

#include "haqnas_runtime.h"

#ifndef FAKE_MISSING
#define FAKE_MISSING 0
#endif

#ifndef FAKE_CPUS
#define FAKE_CPUS 4
#endif

extern uint64_t fake_missing;

#endif /* HAQNAS_FAKE_CPU_H_ */
