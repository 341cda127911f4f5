/* tiny: a neural network compiled by haqnas 0.1.0. C99 and C++11; link libtiny.a and -lm and -pthread.
 * CPU features needed: nothing beyond the architecture's baseline. */
#ifndef HAQNAS_MODEL_TINY_H_
#define HAQNAS_MODEL_TINY_H_

#include <math.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes of the workspace, and its alignment. */
#define TINY_WORKSPACE_BYTES 128
#define TINY_WORKSPACE_ALIGNMENT 64

#define TINY_INPUT_COUNT 2
#define TINY_OUTPUT_COUNT 2

/* A uint8 tensor's real value is scale * (integer - zero point); integers go from 0 to QUANT_MAX. */
#define TINY_INPUT0_NAME "x"
#define TINY_INPUT0_TYPE uint8_t
#define TINY_INPUT0_RANK 2
#define TINY_INPUT0_SHAPE {1, 8}
#define TINY_INPUT0_ELEMENTS 8
#define TINY_INPUT0_BYTES 8
#define TINY_INPUT0_SCALE 0.0500000007f
#define TINY_INPUT0_ZERO_POINT 3
#define TINY_INPUT0_QUANT_MAX 100

#define TINY_INPUT1_NAME "bias"
#define TINY_INPUT1_TYPE float
#define TINY_INPUT1_RANK 2
#define TINY_INPUT1_SHAPE {1, 8}
#define TINY_INPUT1_ELEMENTS 8
#define TINY_INPUT1_BYTES 32

#define TINY_OUTPUT0_NAME "scaled"
#define TINY_OUTPUT0_TYPE float
#define TINY_OUTPUT0_RANK 2
#define TINY_OUTPUT0_SHAPE {1, 8}
#define TINY_OUTPUT0_ELEMENTS 8
#define TINY_OUTPUT0_BYTES 32

#define TINY_OUTPUT1_NAME "signs"
#define TINY_OUTPUT1_TYPE uint8_t
#define TINY_OUTPUT1_RANK 2
#define TINY_OUTPUT1_SHAPE {1, 8}
#define TINY_OUTPUT1_ELEMENTS 8
#define TINY_OUTPUT1_BYTES 8
#define TINY_OUTPUT1_SCALE 0.5f
#define TINY_OUTPUT1_ZERO_POINT 1
#define TINY_OUTPUT1_QUANT_MAX 255

/* Results of tiny_run. */
enum tiny_status {
  TINY_OK = 0,
  TINY_ERROR_NULL = 1,
  TINY_ERROR_ALIGNMENT = 2,
  TINY_ERROR_CPU = 3,
  TINY_ERROR_IO_ALIGNMENT = 4
};

#ifdef __cplusplus
extern "C" {
#endif

/* Run the network once. `inputs` and `outputs` are arrays of INPUT_COUNT and OUTPUT_COUNT pointers to buffers
 * of the sizes above, in row-major order; float32 buffers are aligned to 4 bytes. `workspace` has
 * WORKSPACE_BYTES bytes, aligned to 64, holds nothing between calls, and overlaps no other buffer. Does no
 * input or output. Works on up to 4 threads: workers start at the first call, sleep between calls, and end with
 * the program; the result is the same for any number. Threads may call it at once: one of them then has the workers
 * and the others work alone. Each call has its own workspace
 * and outputs. Returns 0, or an error code without having written anything. */
int tiny_run(const void *const *inputs, void *const *outputs, void *workspace);

/* tiny_run on at most `threads` threads, the caller's included: 1 to TINY_THREADS, which is what
 * tiny_run takes. */
#define TINY_THREADS 4
int tiny_run_threads(const void *const *inputs, void *const *outputs, void *workspace, int threads);

/* One sentence in English on a result of tiny_run; a constant string. */
const char *tiny_error_message(int status);

#ifdef __cplusplus
} /* extern "C" */
#endif

/* Real values to input 0: value / scale rounded half to even, plus zero point, clamped; NaN gives 0. */
static inline void tiny_quantize_input0(const float *real, uint8_t *quantized, size_t count) {
  size_t i;
  for (i = 0; i < count; ++i) {
    float value = nearbyintf(real[i] * 20.0f);
    if (!(value >= -3.0f)) value = -3.0f;
    if (value > 97.0f) value = 97.0f;
    quantized[i] = (uint8_t)((int32_t)value + 3);
  }
}

/* Output 1 to real values: scale * (integer - zero point). */
static inline void tiny_dequantize_output1(const uint8_t *quantized, float *real, size_t count) {
  size_t i;
  for (i = 0; i < count; ++i)
    real[i] = (float)((int32_t)quantized[i] - 1) * 0.5f;
}

#endif /* HAQNAS_MODEL_TINY_H_ */
