/* What a TVM RPC server lacks: a function that runs a command. Loaded there as a module; TVM finds
 * it as "system".
 *
 * Built without a C library, so that it loads beside any: `system` is the server's own. */
#include <stdint.h>

enum { TYPE_INT = 1, TYPE_C_STRING = 8, TYPE_STRING = 65 };

/* TVMFFIAny and TVMFFIByteArray of tvm/ffi/c_api.h. */
typedef struct {
  int32_t type_index;
  uint32_t padding;
  union {
    int64_t integer;
    const char* text;
    const struct string_object* object;
  } value;
} ffi_any;

struct string_object {
  uint64_t reference_count;
  int32_t type_index;
  uint32_t padding;
  int64_t deleter;
  const char* text; /* ends with a zero byte */
  uint64_t size;
};

int system(const char* command);
void TVMFFIErrorSetRaisedFromCStr(const char* kind, const char* message);

__attribute__((visibility("default"))) int __tvm_ffi_system(void* self, const ffi_any* arguments,
                                                            int32_t count, ffi_any* result) {
  (void)self;
  const char* command = 0;
  if (count == 1 && arguments->type_index == TYPE_C_STRING) command = arguments->value.text;
  if (count == 1 && arguments->type_index == TYPE_STRING) command = arguments->value.object->text;
  if (!command) {
    TVMFFIErrorSetRaisedFromCStr("TypeError", "system takes one string");
    return -1;
  }
  result->type_index = TYPE_INT;
  result->padding = 0;
  result->value.integer = system(command);
  return 0;
}
