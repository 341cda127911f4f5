/* What the sources of a kernel set share; not installed. */
#ifndef HAQNAS_KERNEL_SET_H_
#define HAQNAS_KERNEL_SET_H_

#include "program.h"

/* Told after each call. */
typedef void (*haqnas_after)(void* context);

typedef struct {
  void (*run)(const void* const* inputs, void* const* outputs, void* workspace, haqnas_after after,
              void* context);
  int32_t call_count;
} haqnas_segment;

typedef struct {
  const haqnas_segment* segments;
  int32_t segment_count;
} haqnas_kernel_set;

extern const haqnas_kernel_set HAQNAS_SET;

#endif /* HAQNAS_KERNEL_SET_H_ */
