/* The emitted library: results, argument checks, messages, and two threads at once. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fake_cpu.h"
#include "tiny.h"

enum { RUNS = 2000 };

#define CHECK(condition) check((condition), #condition, __LINE__)

static void check(int is_true, const char* text, int line) {
  if (is_true) return;
  fprintf(stderr, "test_library.c:%d: not true: %s\n", line, text);
  exit(1);
}

typedef struct {
  uint8_t x[TINY_INPUT0_ELEMENTS];
  float bias[TINY_INPUT1_ELEMENTS];
  float scaled[TINY_OUTPUT0_ELEMENTS];
  uint8_t signs[TINY_OUTPUT1_ELEMENTS];
  _Alignas(TINY_WORKSPACE_ALIGNMENT) unsigned char workspace[TINY_WORKSPACE_BYTES];
} state;

static int run(state* s) {
  const void* inputs[TINY_INPUT_COUNT] = {s->x, s->bias};
  void* outputs[TINY_OUTPUT_COUNT] = {s->scaled, s->signs};
  return tiny_run(inputs, outputs, s->workspace);
}

static void fill(state* s, int seed) {
  memset(s, 0, sizeof *s);
  for (int i = 0; i < TINY_INPUT0_ELEMENTS; ++i) s->x[i] = (uint8_t)((seed * 7 + i * 13) % 101);
  for (int i = 0; i < TINY_INPUT1_ELEMENTS; ++i) s->bias[i] = (float)((seed + i) % 3 - 1);
}

static int is_right(const state* s) {
  for (int i = 0; i < TINY_OUTPUT0_ELEMENTS; ++i)
    if (s->scaled[i] != (float)(s->x[i] * ("ABCDEFGH"[i])) * 0.5f) return 0;
  for (int i = 0; i < TINY_OUTPUT1_ELEMENTS; ++i)
    if (s->signs[i] != (s->bias[i] > 0.0f)) return 0;
  return 1;
}

static void test_run_computes(void) {
  state s;
  fill(&s, 5);
  CHECK(run(&s) == TINY_OK);
  CHECK(is_right(&s));
}

static void test_null_arguments_are_refused(void) {
  state s;
  fill(&s, 1);
  const void* inputs[] = {s.x, s.bias};
  void* outputs[] = {s.scaled, s.signs};
  CHECK(tiny_run(NULL, outputs, s.workspace) == TINY_ERROR_NULL);
  CHECK(tiny_run(inputs, NULL, s.workspace) == TINY_ERROR_NULL);
  CHECK(tiny_run(inputs, outputs, NULL) == TINY_ERROR_NULL);
  for (int i = 0; i < TINY_INPUT_COUNT; ++i) {
    const void* with_null[] = {s.x, s.bias};
    with_null[i] = NULL;
    CHECK(tiny_run(with_null, outputs, s.workspace) == TINY_ERROR_NULL);
  }
  for (int i = 0; i < TINY_OUTPUT_COUNT; ++i) {
    void* with_null[] = {s.scaled, s.signs};
    with_null[i] = NULL;
    CHECK(tiny_run(inputs, with_null, s.workspace) == TINY_ERROR_NULL);
  }
}

static void test_unaligned_buffers_are_refused(void) {
  _Alignas(64) unsigned char workspace[TINY_WORKSPACE_BYTES + 64];
  _Alignas(4) unsigned char floats[TINY_INPUT1_BYTES + 4] = {0};
  state s;
  fill(&s, 1);
  const void* inputs[] = {s.x, s.bias};
  void* outputs[] = {s.scaled, s.signs};
  CHECK(tiny_run(inputs, outputs, workspace + 32) == TINY_ERROR_ALIGNMENT);
  inputs[1] = floats + 1;
  CHECK(tiny_run(inputs, outputs, s.workspace) == TINY_ERROR_IO_ALIGNMENT);
  inputs[1] = s.bias;
  outputs[0] = floats + 2;
  CHECK(tiny_run(inputs, outputs, s.workspace) == TINY_ERROR_IO_ALIGNMENT);
}

static void test_a_cpu_without_a_feature_is_refused(void) {
  state s;
  fill(&s, 1);
  fake_missing = HAQNAS_CPU(DOTPROD);
  CHECK(run(&s) == TINY_ERROR_CPU);
  fake_missing = 0;
  CHECK(s.scaled[0] == 0.0f);
  CHECK(run(&s) == TINY_OK);
}

static void test_each_status_has_its_message(void) {
  for (int a = TINY_OK; a <= TINY_ERROR_IO_ALIGNMENT + 1; ++a)
    for (int b = TINY_OK; b < a; ++b)
      CHECK(strcmp(tiny_error_message(a), tiny_error_message(b)) != 0);
  CHECK(strcmp(tiny_error_message(-1), "unknown status") == 0);
}

static void test_quantize_rounds_half_to_even_and_clamps(void) {
  const float real[] = {0.0f, 0.05f, 0.075f, 0.125f, -1.0f, 1e30f, -1e30f, 0.0f / 1.0f};
  const uint8_t expected[] = {3, 4, 5, 5, 0, 100, 0, 3};
  uint8_t quantized[8];
  tiny_quantize_input0(real, quantized, 8);
  CHECK(memcmp(quantized, expected, 8) == 0);
}

static void test_dequantize_inverts(void) {
  const uint8_t quantized[] = {0, 1, 255};
  float real[3];
  tiny_dequantize_output1(quantized, real, 3);
  CHECK(real[0] == -0.5f && real[1] == 0.0f && real[2] == 127.0f);
}

static void* run_often(void* seed) {
  for (int i = 0; i < RUNS; ++i) {
    state s;
    fill(&s, *(const int*)seed + i);
    if (run(&s) != TINY_OK || !is_right(&s)) return seed;
  }
  return NULL;
}

static void test_two_threads_run_at_once(void) {
  pthread_t threads[2];
  int seeds[2] = {0, 50};
  for (int i = 0; i < 2; ++i) CHECK(pthread_create(&threads[i], NULL, run_often, &seeds[i]) == 0);
  for (int i = 0; i < 2; ++i) {
    void* failed = &seeds[i];
    CHECK(pthread_join(threads[i], &failed) == 0);
    CHECK(failed == NULL);
  }
}

int main(void) {
  test_run_computes();
  test_null_arguments_are_refused();
  test_unaligned_buffers_are_refused();
  test_a_cpu_without_a_feature_is_refused();
  test_each_status_has_its_message();
  test_quantize_rounds_half_to_even_and_clamps();
  test_dequantize_inverts();
  test_two_threads_run_at_once();
  return 0;
}
