/* What an emitted model and the programs around it share: error codes, CPU features, descriptions.
 * The public header of a model (include/<model>.h) does not need this file. */
#ifndef HAQNAS_RUNTIME_H_
#define HAQNAS_RUNTIME_H_

#include <stddef.h>
#include <stdint.h>

/* Results of <model>_run; the numbers are part of the library's interface and never change. */
enum haqnas_status {
  HAQNAS_OK = 0,
  HAQNAS_ERROR_NULL = 1,         /* an argument, or one of the buffers, is a null pointer */
  HAQNAS_ERROR_ALIGNMENT = 2,    /* the workspace is not aligned to HAQNAS_ALIGNMENT bytes */
  HAQNAS_ERROR_CPU = 3,          /* the CPU lacks a feature that the kernels use */
  HAQNAS_ERROR_IO_ALIGNMENT = 4, /* a float32 buffer is not aligned to 4 bytes */
};

/* Workspace alignment in bytes: one cache line, and the widest vector register. */
#define HAQNAS_ALIGNMENT 64

/* HAQNAS_CPU_BIT_AVX2 ...: the place of each feature in a set of features. */
enum haqnas_cpu_bit {
#define HAQNAS_CPU_FEATURE(enumerator, name, architecture) HAQNAS_CPU_BIT_##enumerator,
#include "cpu_features.inc"
#undef HAQNAS_CPU_FEATURE
  HAQNAS_CPU_BIT_COUNT
};

#define HAQNAS_CPU(enumerator) (UINT64_C(1) << HAQNAS_CPU_BIT_##enumerator)

typedef enum { HAQNAS_UINT8 = 0, HAQNAS_FLOAT32 = 1 } haqnas_dtype;

/* One input or output. */
typedef struct {
  const char* name;
  haqnas_dtype dtype;
  int32_t rank;
  const int64_t* shape;
  size_t size_bytes;
  int32_t quant_max; /* greatest legal integer of a uint8 tensor */
} haqnas_tensor;

/* Expected values of one output: element (k * element_count) / count for k in [0, count). */
typedef struct {
  int32_t count;
  const float* values;
  float tolerance; /* greatest absolute difference that passes */
} haqnas_samples;

#ifdef HAQNAS_MARKED
/* The executable that times each kernel call (--format layers): told after each, with its number.
 * Kept out of all else, because it costs 40 bytes a call. */
typedef void (*haqnas_mark)(void* context, int call);

typedef struct {
  const char* kernel;
  const char* layer;
} haqnas_call;
#endif

#ifdef HAQNAS_THREADS
/* A program in sections: section s is tasks first[s] to first[s + 1] - 1, which run at once. One
 * task is run by the caller's thread. */
typedef struct {
  void (*run)(const void* context, int task);
  const uint16_t* first;
  int count; /* sections */
#ifdef HAQNAS_MARKED
  void (*mark)(const void* context, int section); /* after each section of several tasks */
#endif
} haqnas_sections;

enum { HAQNAS_MAX_THREADS = 64 };
#endif

/* A whole model, for the executable and the TVM entry. */
typedef struct {
  const char* name;
  const char* version;   /* of the compiler */
  const char* info_json; /* one JSON object, for --info */
  int32_t input_count;
  int32_t output_count;
  const haqnas_tensor* inputs;
  const haqnas_tensor* outputs;
  size_t workspace_bytes;
  uint64_t required_cpu_features;
  int (*run)(const void* const* inputs, void* const* outputs, void* workspace);
#ifdef HAQNAS_THREADS
  int32_t threads; /* that it was compiled for */
  int (*run_threads)(const void* const* inputs, void* const* outputs, void* workspace, int threads);
#endif
#ifdef HAQNAS_MARKED
  int32_t call_count; /* kernel calls of one run */
  const haqnas_call* calls;
  int (*run_marked)(const void* const* inputs, void* const* outputs, void* workspace,
#ifdef HAQNAS_THREADS
                    int threads,
#endif
                    haqnas_mark mark, void* context);
#endif
  const char* (*error_message)(int status);
  uint64_t output_hash;          /* FNV-1a over all output bytes; used when samples is null */
  const haqnas_samples* samples; /* one per output; null when the model is exact */
} haqnas_model;

#ifdef __cplusplus
extern "C" {
#endif

/* Those of the required features that this CPU and its Linux do not offer; 0: all are there.
 * Thread-safe; looked up once. Asks Linux for AMX's registers only when AMX is required. */
uint64_t haqnas_cpu_missing(uint64_t required);

/* CPUs that Linux lets this process use; at least 1. */
int haqnas_cpu_count(void);

#ifdef HAQNAS_THREADS
/* Run all sections in order with up to so many threads, the caller's included. Several callers at
 * once: the first has the workers, the others run alone. Never fails: without workers the caller
 * runs alone. */
void haqnas_team_run(const haqnas_sections* sections, const void* context, int threads);
#endif

/* LLVM's name of a feature, by its bit. */
const char* haqnas_cpu_feature_name(int bit);

#ifdef __cplusplus
}
#endif

#endif /* HAQNAS_RUNTIME_H_ */
