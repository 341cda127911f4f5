/* tiny: emitted by haqnas 0.1.0; do not edit. */
#include "tiny.h"

#include "haqnas_runtime.h"

/* In tiny_constants.S: packed weights, scales, tables. */
extern __attribute__((visibility("hidden"))) const unsigned char tiny_constants[];

void tiny_copy(const void *, const void *, int32_t);
void tiny_scale(const void *, const void *, const void *, int32_t);
void tiny_sign(const void *, const void *, int32_t);

#define PUBLIC __attribute__((visibility("default")))

typedef struct {
  const void *const *inputs;
  void *const *outputs;
  unsigned char *workspace;
#ifdef HAQNAS_MARKED
  haqnas_mark mark;
  void *context;
#endif
} buffers;

#ifdef HAQNAS_MARKED
#define PARAMETERS                                                                                \
  const void *const *inputs, void *const *outputs, void *workspace, int threads, haqnas_mark mark, \
      void *context
#define MARK(call) \
  if (b->mark) b->mark(b->context, call)
static void mark_section(const void *context, int section) {
  static const uint16_t marks[] = {0, 1, 2};
  const buffers *const b = context;
  MARK(marks[section]);
}
#else
#define PARAMETERS const void *const *inputs, void *const *outputs, void *workspace, int threads
#define MARK(call)
#endif

/* One line a call and no loops in it: nothing to gain from code that is large. */
#ifdef __clang__
#define SMALL __attribute__((minsize))
#else
#define SMALL
#endif
/* Tasks of one section run at once. */
SMALL static void run_task(const void *context, int task) {
  const buffers *const b = context;
  unsigned char *const work = b->workspace;
  const unsigned char *const constants = tiny_constants;
  const unsigned char *const in0 = b->inputs[0];
  const unsigned char *const in1 = b->inputs[1];
  unsigned char *const out0 = b->outputs[0];
  unsigned char *const out1 = b->outputs[1];
  (void)work, (void)constants, (void)in0, (void)in1, (void)out0, (void)out1;
  switch (task) {
  case 0:
  tiny_copy(in0, work + 64, 4);
    break;
  case 1:
  tiny_copy(in0 + 4, work + 68, 4);
    break;
  case 2:
  tiny_scale(work + 64, constants, out0, 2); /* layer1.0 */
    break;
  case 3:
  tiny_scale(work + 66, constants + 2, out0 + 8, 2); /* layer1.0 */
    break;
  case 4:
  tiny_scale(work + 68, constants + 4, out0 + 16, 2); /* layer1.0 */
    break;
  case 5:
  tiny_scale(work + 70, constants + 6, out0 + 24, 2); /* layer1.0 */
    break;
  case 6:
  tiny_sign(in1, out1, 8); MARK(2); /* layer2 */
    break;
  }
}

#ifdef HAQNAS_MARKED
int tiny_run_marked(PARAMETERS);
int tiny_run_marked(PARAMETERS) {
#else
SMALL PUBLIC int tiny_run_threads(PARAMETERS) {
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
  static const uint16_t first[] = {0, 2, 6, 7}; /* task of each section */
#ifdef HAQNAS_MARKED
  static const haqnas_sections sections = {run_task, first, 3, mark_section};
  const buffers given = {inputs, outputs, workspace, mark, context};
#else
  static const haqnas_sections sections = {run_task, first, 3};
  const buffers given = {inputs, outputs, workspace};
#endif
  haqnas_team_run(&sections, &given, threads);
  return HAQNAS_OK;
}

#ifdef HAQNAS_MARKED
PUBLIC int tiny_run_threads(const void *const *inputs, void *const *outputs, void *workspace, int threads) {
  return tiny_run_marked(inputs, outputs, workspace, threads, NULL, NULL);
}
#endif

PUBLIC int tiny_run(const void *const *inputs, void *const *outputs, void *workspace) {
  return tiny_run_threads(inputs, outputs, workspace, 4);
}

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
