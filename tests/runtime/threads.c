/* A user's program: two threads run the library of the tiny model at once, thousands of times. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "tiny.h"

static void* run_often(void* seed) {
  void* workspace = aligned_alloc(TINY_WORKSPACE_ALIGNMENT, TINY_WORKSPACE_BYTES);
  for (int run = 0; run < 20000; ++run) {
    uint8_t x[TINY_INPUT0_ELEMENTS], signs[TINY_OUTPUT1_ELEMENTS];
    float bias[TINY_INPUT1_ELEMENTS] = {0}, scaled[TINY_OUTPUT0_ELEMENTS];
    const void* inputs[TINY_INPUT_COUNT] = {x, bias};
    void* outputs[TINY_OUTPUT_COUNT] = {scaled, signs};
    for (int i = 0; i < TINY_INPUT0_ELEMENTS; ++i) x[i] = (uint8_t)((*(int*)seed + run + i) % 101);
    const int status = tiny_run(inputs, outputs, workspace);
    if (status) {
      fprintf(stderr, "%s\n", tiny_error_message(status));
      return seed;
    }
    for (int i = 0; i < TINY_OUTPUT0_ELEMENTS; ++i)
      if (scaled[i] != (float)(x[i] * ('A' + i)) * 0.5f) return seed;
  }
  free(workspace);
  return NULL;
}

int main(void) {
  pthread_t threads[2];
  int seeds[2] = {0, 37};
  for (int i = 0; i < 2; ++i)
    if (pthread_create(&threads[i], NULL, run_often, &seeds[i])) return 1;
  for (int i = 0; i < 2; ++i) {
    void* failed = NULL;
    if (pthread_join(threads[i], &failed) || failed) return 2;
  }
  puts("both threads are right");
  return 0;
}
