/* tiny: emitted by haqnas 0.1.0; do not edit. */
#include "tiny.h"

#include "haqnas_runtime.h"

/* In tiny_constants.S: packed weights, scales, tables. */
extern __attribute__((visibility("hidden"))) const unsigned char tiny_constants[];

void tiny_copy(const void *, const void *, int32_t);
void tiny_scale(const void *, const void *, const void *, int32_t);
void tiny_sign(const void *, const void *, int32_t);

#define PUBLIC __attribute__((visibility("default")))

#ifdef HAQNAS_MARKED
#define PARAMETERS const void *const *inputs, void *const *outputs, void *workspace, haqnas_mark mark, void *context
#define MARK(call) \
  if (mark) mark(context, call)
int tiny_run_marked(PARAMETERS);
int tiny_run_marked(PARAMETERS) {
#else
#define MARK(call)
/* One line a call and no loops in it: nothing to gain from code that is large. */
#ifdef __clang__
#define SMALL __attribute__((minsize))
#else
#define SMALL
#endif
SMALL PUBLIC int tiny_run(const void *const *inputs, void *const *outputs, void *workspace) {
#endif
  if (!inputs || !outputs || !workspace) return HAQNAS_ERROR_NULL;
  const unsigned char *const in0 = inputs[0];
  if (!in0) return HAQNAS_ERROR_NULL;
  const unsigned char *const in1 = inputs[1];
  if (!in1) return HAQNAS_ERROR_NULL;
  if ((uintptr_t)in1 % 4) return HAQNAS_ERROR_IO_ALIGNMENT;
  unsigned char *const out0 = outputs[0];
  if (!out0) return HAQNAS_ERROR_NULL;
  unsigned char *const out1 = outputs[1];
  if (!out1) return HAQNAS_ERROR_NULL;
  if ((uintptr_t)out0 % 4) return HAQNAS_ERROR_IO_ALIGNMENT;
  if ((uintptr_t)workspace % HAQNAS_ALIGNMENT) return HAQNAS_ERROR_ALIGNMENT;
  if (haqnas_cpu_missing(0)) return HAQNAS_ERROR_CPU;
  unsigned char *const work = workspace;
  const unsigned char *const constants = tiny_constants;
  (void)work, (void)constants;
  tiny_copy(in0, work + 64, 8); MARK(0);
  tiny_scale(work + 64, constants, out0, 8); MARK(1); /* layer1.0 */
  tiny_sign(in1, out1, 8); MARK(2); /* layer2 */
  return HAQNAS_OK;
}

#ifdef HAQNAS_MARKED
PUBLIC int tiny_run(const void *const *inputs, void *const *outputs, void *workspace) {
  return tiny_run_marked(inputs, outputs, workspace, NULL, NULL);
}
#endif

PUBLIC const char *tiny_error_message(int status) {
  switch (status) {
    case HAQNAS_OK:
      return "ok";
    case HAQNAS_ERROR_NULL:
      return "an argument or a buffer is a null pointer";
    case HAQNAS_ERROR_ALIGNMENT:
      return "the workspace must be aligned to 64 bytes (aligned_alloc)";
    case HAQNAS_ERROR_CPU:
      return "the CPU or its Linux lacks a feature that the model was compiled for; it needs nothing";
    case HAQNAS_ERROR_IO_ALIGNMENT:
      return "a float32 input or output must be aligned to 4 bytes";
    default:
      return "unknown status";
  }
}
