/* Buffers of one run, the check of the CPU, and made-up input. */
#define _GNU_SOURCE /* POSIX calls under -std=c11 */
#include <stdlib.h>

#include "program.h"

static void* allocate(size_t size_bytes) {
  const size_t rounded = (size_bytes / HAQNAS_ALIGNMENT + 1) * HAQNAS_ALIGNMENT;
  return rounded > size_bytes ? aligned_alloc(HAQNAS_ALIGNMENT, rounded) : NULL;
}

static void release_tensors(void** all, int32_t count) {
  for (int32_t i = 0; all && i < count; ++i) free(all[i]);
  free(all);
}

static void** allocate_tensors(const haqnas_tensor* tensors, int32_t count) {
  void** all = calloc((size_t)count + 1, sizeof *all);
  for (int32_t i = 0; all && i < count; ++i) {
    if ((all[i] = allocate(tensors[i].size_bytes))) continue;
    release_tensors(all, i);
    return NULL;
  }
  return all;
}

int allocate_buffers(buffers* made) {
  const haqnas_model* model = &HAQNAS_MODEL;
  made->inputs = allocate_tensors(model->inputs, model->input_count);
  made->outputs = allocate_tensors(model->outputs, model->output_count);
  made->workspace = allocate(model->workspace_bytes);
  if (made->inputs && made->outputs && made->workspace) return 0;
  release_buffers(made);
  text out = error_line();
  put(&out, "not enough memory: the model needs a workspace of ");
  put_count(&out, model->workspace_bytes);
  put(&out, " bytes beside its inputs and outputs");
  return end_line(&out, EXIT_DEVICE);
}

void release_buffers(buffers* memory) {
  release_tensors(memory->inputs, HAQNAS_MODEL.input_count);
  release_tensors(memory->outputs, HAQNAS_MODEL.output_count);
  free(memory->workspace);
  *memory = (buffers){.threads = memory->threads};
}

int run_once(const buffers* memory) {
#ifdef HAQNAS_THREADS
  const int status =
      HAQNAS_MODEL.run_threads((const void* const*)memory->inputs, (void* const*)memory->outputs,
                               memory->workspace, memory->threads);
#else
  const int status = HAQNAS_MODEL.run((const void* const*)memory->inputs,
                                      (void* const*)memory->outputs, memory->workspace);
#endif
  return status ? fail(EXIT_DEVICE, HAQNAS_MODEL.error_message(status), "", "") : 0;
}

int check_cpu(void) {
  const uint64_t missing = haqnas_cpu_missing(HAQNAS_MODEL.required_cpu_features);
  if (!missing) return 0;
  text out = error_line();
  put(&out, "this CPU or its Linux does not offer");
  for (int bit = 0; bit < HAQNAS_CPU_BIT_COUNT; ++bit) {
    if (!((missing >> bit) & 1)) continue;
    put(&out, " ");
    put(&out, haqnas_cpu_feature_name(bit));
  }
  put(&out, ", which the model was compiled for; compile it for a --target that this CPU has");
  return end_line(&out, EXIT_DEVICE);
}

/* Knuth's MMIX generator; haqnas/codegen/selftest.py makes the same numbers. Input i starts from
 * i + 1; a uint8 is the top 32 bits modulo (quant_max + 1), a float32 the top 24 bits in [-1, 1).
 */
static void fill_input(const haqnas_tensor* tensor, int32_t index, void* data) {
  uint64_t state = (uint64_t)index + 1;
  uint8_t* bytes = data;
  float* floats = data;
  const size_t count = tensor->size_bytes / (tensor->dtype == HAQNAS_FLOAT32 ? 4 : 1);
  for (size_t i = 0; i < count; ++i) {
    state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    if (tensor->dtype == HAQNAS_FLOAT32)
      floats[i] = (float)((int32_t)(state >> 40) - (1 << 23)) / (float)(1 << 23);
    else
      bytes[i] = (uint8_t)((state >> 32) % ((uint64_t)tensor->quant_max + 1));
  }
}

int prepare_made_up(buffers* memory) {
  const haqnas_model* model = &HAQNAS_MODEL;
  int failure = check_cpu();
  if (!failure) failure = allocate_buffers(memory);
  for (int32_t i = 0; !failure && i < model->input_count; ++i)
    fill_input(&model->inputs[i], i, memory->inputs[i]);
  return failure;
}
