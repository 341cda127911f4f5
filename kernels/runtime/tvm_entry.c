/* The entry that TVM's module loader looks for: tvm.runtime.load_module("x.so")["run"](in...,
 * out...).
 *
 * Declares the few structures of TVM's and DLPack's C interfaces that it touches, so that building
 * it needs neither of them: tvm/ffi/c_api.h (TVMFFIAny, TVMFFIObject), dlpack.h (DLTensor). */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "haqnas_runtime.h"

extern const haqnas_model HAQNAS_MODEL;

enum { TYPE_NONE = 0, TYPE_DLTENSOR_POINTER = 7, TYPE_TENSOR = 70 };
enum { DEVICE_CPU = 1, CODE_UINT = 1, CODE_FLOAT = 2 };

typedef struct {
  int32_t type_index;
  uint32_t padding;
  void* pointer;
} ffi_any;

/* What lies before the DLTensor in a tensor object. */
typedef struct {
  uint64_t reference_count;
  int32_t type_index;
  uint32_t padding;
  int64_t deleter;
} ffi_object;

typedef struct {
  void* data;
  int32_t device_type;
  int32_t device_id;
  int32_t rank;
  uint8_t dtype_code;
  uint8_t dtype_bits;
  uint16_t dtype_lanes;
  int64_t* shape;
  int64_t* strides;
  uint64_t byte_offset;
} dl_tensor;

/* Weak: the library can also be loaded by a program without TVM. */
__attribute__((weak)) void TVMFFIErrorSetRaisedFromCStr(const char* kind, const char* message);

__attribute__((visibility("default"))) int __tvm_ffi_run(void* self, const ffi_any* arguments,
                                                         int32_t count, ffi_any* result);

static int raise(const char* kind, const char* format, ...) {
  char message[256];
  va_list values;
  va_start(values, format);
  vsnprintf(message, sizeof message, format, values);
  va_end(values);
  if (TVMFFIErrorSetRaisedFromCStr)
    TVMFFIErrorSetRaisedFromCStr(kind, message);
  else
    fprintf(stderr, "%s: %s\n", kind, message);
  return -1;
}

static const dl_tensor* tensor_of(const ffi_any* argument) {
  if (argument->type_index == TYPE_DLTENSOR_POINTER) return argument->pointer;
  if (argument->type_index == TYPE_TENSOR)
    return (const dl_tensor*)((const char*)argument->pointer + sizeof(ffi_object));
  return NULL;
}

static int is_contiguous(const dl_tensor* tensor) {
  int64_t expected = 1;
  for (int32_t i = tensor->rank - 1; i >= 0 && tensor->strides; --i) {
    if (tensor->shape[i] != 1 && tensor->strides[i] != expected) return 0;
    expected *= tensor->shape[i];
  }
  return 1;
}

static int check(const dl_tensor* got, const haqnas_tensor* want, int32_t place) {
  const int is_float = want->dtype == HAQNAS_FLOAT32;
  if (!got) return raise("TypeError", "argument %d (%s) must be a tensor", place, want->name);
  if (got->device_type != DEVICE_CPU)
    return raise("ValueError", "argument %d (%s) must be on the CPU", place, want->name);
  if (got->dtype_code != (is_float ? CODE_FLOAT : CODE_UINT) ||
      got->dtype_bits != (is_float ? 32 : 8) || got->dtype_lanes != 1)
    return raise("TypeError", "argument %d (%s) must be %s", place, want->name,
                 is_float ? "float32" : "uint8");
  int is_same = got->rank == want->rank;
  for (int32_t i = 0; is_same && i < want->rank; ++i) is_same = got->shape[i] == want->shape[i];
  if (!is_same) {
    char shape[128] = "";
    for (int32_t i = 0, used = 0; i < want->rank && used < 100; ++i)
      used += snprintf(shape + used, sizeof shape - (size_t)used, i ? ", %lld" : "%lld",
                       (long long)want->shape[i]);
    return raise("ValueError", "argument %d (%s) must have the shape (%s)", place, want->name,
                 shape);
  }
  if (!is_contiguous(got))
    return raise("ValueError", "argument %d (%s) must be contiguous", place, want->name);
  return 0;
}

static int run_tensors(const ffi_any* arguments) {
  const haqnas_model* model = &HAQNAS_MODEL;
  const int32_t count = model->input_count + model->output_count;
  void** data = calloc((size_t)count, sizeof *data);
  void* workspace = aligned_alloc(
      HAQNAS_ALIGNMENT, (model->workspace_bytes / HAQNAS_ALIGNMENT + 1) * HAQNAS_ALIGNMENT);
  int status = -1;
  if (data && workspace) {
    for (int32_t i = 0; i < count; ++i) {
      const dl_tensor* tensor = tensor_of(&arguments[i]);
      data[i] = (char*)tensor->data + tensor->byte_offset;
    }
    status =
        model->run((const void* const*)data, (void* const*)(data + model->input_count), workspace);
    if (status) raise("RuntimeError", "%s: %s", model->name, model->error_message(status));
  } else {
    raise("MemoryError", "%s needs a workspace of %zu bytes", model->name, model->workspace_bytes);
  }
  free(workspace);
  free(data);
  return status ? -1 : 0;
}

int __tvm_ffi_run(void* self, const ffi_any* arguments, int32_t count, ffi_any* result) {
  const haqnas_model* model = &HAQNAS_MODEL;
  (void)self;
  if (count != model->input_count + model->output_count)
    return raise("TypeError", "%s takes %d input(s) and %d output(s), but got %d argument(s)",
                 model->name, model->input_count, model->output_count, count);
  for (int32_t i = 0; i < count; ++i) {
    const haqnas_tensor* want =
        i < model->input_count ? &model->inputs[i] : &model->outputs[i - model->input_count];
    if (check(tensor_of(&arguments[i]), want, i)) return -1;
  }
  if (run_tensors(arguments)) return -1;
  result->type_index = TYPE_NONE;
  result->padding = 0;
  result->pointer = NULL;
  return 0;
}
