/* --golden: run the made-up input and compare with what the compiler expects. */
#define _GNU_SOURCE /* POSIX calls under -std=c11 */
#include <unistd.h>

#include "program.h"

static int check_hash(const buffers* memory) {
  const haqnas_model* model = &HAQNAS_MODEL;
  uint64_t hash = UINT64_C(0xcbf29ce484222325); /* FNV-1a */
  for (int32_t o = 0; o < model->output_count; ++o) {
    const uint8_t* bytes = memory->outputs[o];
    for (size_t i = 0; i < model->outputs[o].size_bytes; ++i)
      hash = (hash ^ bytes[i]) * UINT64_C(0x100000001b3);
  }
  if (hash == model->output_hash) return 0;
  text out = error_line();
  put(&out, "golden mismatch: the outputs' hash is ");
  put_hex(&out, hash);
  put(&out, ", but the compiler expected ");
  put_hex(&out, model->output_hash);
  put(&out, "; the file is damaged or the CPU computes wrongly: compile again");
  return end_line(&out, EXIT_MISMATCH);
}

static int check_samples(const buffers* memory, int32_t o) {
  const haqnas_tensor* tensor = &HAQNAS_MODEL.outputs[o];
  const haqnas_samples* expected = &HAQNAS_MODEL.samples[o];
  const int is_float = tensor->dtype == HAQNAS_FLOAT32;
  const uint64_t elements = tensor->size_bytes / (is_float ? 4 : 1);
  for (int32_t k = 0; k < expected->count; ++k) {
    const uint64_t at = (uint64_t)k * elements / (uint64_t)expected->count;
    const float value = is_float ? ((const float*)memory->outputs[o])[at]
                                 : (float)((const uint8_t*)memory->outputs[o])[at];
    const float difference = value - expected->values[k];
    /* Written so that a NaN fails. */
    if (difference <= expected->tolerance && difference >= -expected->tolerance) continue;
    text out = error_line();
    put(&out, "golden mismatch: element ");
    put_count(&out, at);
    put(&out, " of output ");
    put(&out, tensor->name);
    put(&out,
        " is further from the expected value than one quantization step; the file is damaged "
        "or the CPU computes wrongly: compile again");
    return end_line(&out, EXIT_MISMATCH);
  }
  return 0;
}

int run_golden(int threads) {
  buffers memory = {.threads = threads};
  int failure = prepare_made_up(&memory);
  if (!failure) failure = run_once(&memory);
  if (!failure && !HAQNAS_MODEL.samples) failure = check_hash(&memory);
  for (int32_t o = 0; HAQNAS_MODEL.samples && !failure && o < HAQNAS_MODEL.output_count; ++o)
    failure = check_samples(&memory, o);
  release_buffers(&memory);
  if (failure) return failure;
  text out = {.fd = STDOUT_FILENO};
  put(&out, HAQNAS_MODEL.samples ? "golden: ok (within one quantization step)\n"
                                 : "golden: ok (every output byte)\n");
  return end_output(&out);
}
