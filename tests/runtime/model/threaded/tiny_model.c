/* tiny: what the executable needs to know of the model; emitted by haqnas, do not edit. */
#include "tiny.h"

#include "haqnas_runtime.h"

static const int64_t input0_shape[] = {1, 8};
static const int64_t input1_shape[] = {1, 8};
static const haqnas_tensor inputs[] = {
    {"x", HAQNAS_UINT8, 2, input0_shape, 8, 100},
    {"bias", HAQNAS_FLOAT32, 2, input1_shape, 32, 0},
};
static const int64_t output0_shape[] = {1, 8};
static const int64_t output1_shape[] = {1, 8};
static const haqnas_tensor outputs[] = {
    {"scaled", HAQNAS_FLOAT32, 2, output0_shape, 32, 0},
    {"signs", HAQNAS_UINT8, 2, output1_shape, 8, 255},
};


#ifdef HAQNAS_MARKED
int tiny_run_marked(const void *const *inputs, void *const *outputs, void *workspace, int threads, haqnas_mark mark,
                      void *context);
static const haqnas_call calls[] = {
    {"copy", ""},
    {"scale", "layer1.0"},
    {"sign", "layer2"},
};
#endif

extern const haqnas_model tiny_model;
const haqnas_model tiny_model = {
    .name = "tiny",
    .version = "0.1.0",
    .info_json = "{\"name\": \"tiny\", \"haqnas\": \"0.1.0\", \"inputs\": [{\"name\": \"x\", \"dtype\": \"uint8\", \"shape\": [1, 8], \"scale\": 0.05000000074505806, \"zero_point\": 3, \"quant_max\": 100, \"size_bytes\": 8}, {\"name\": \"bias\", \"dtype\": \"float32\", \"shape\": [1, 8], \"scale\": 1.0, \"zero_point\": 0, \"quant_max\": 0, \"size_bytes\": 32}], \"outputs\": [{\"name\": \"scaled\", \"dtype\": \"float32\", \"shape\": [1, 8], \"scale\": 1.0, \"zero_point\": 0, \"quant_max\": 0, \"size_bytes\": 32}, {\"name\": \"signs\", \"dtype\": \"uint8\", \"shape\": [1, 8], \"scale\": 0.5, \"zero_point\": 1, \"quant_max\": 255, \"size_bytes\": 8}], \"workspace_bytes\": 128, \"constants_bytes\": 8, \"required_cpu_features\": [], \"is_exact\": true}",
    .input_count = 2,
    .output_count = 2,
    .inputs = inputs,
    .outputs = outputs,
    .workspace_bytes = 128,
    .required_cpu_features = 0,
    .run = tiny_run,
    .threads = 4,
    .run_threads = tiny_run_threads,
#ifdef HAQNAS_MARKED
    .call_count = 3,
    .calls = calls,
    .run_marked = tiny_run_marked,
#endif
    .error_message = tiny_error_message,
    .output_hash = UINT64_C(1253235916123902473),
    .samples = NULL,
};
