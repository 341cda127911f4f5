// QEMU plugin: writes how often the guest executed each translated block, with its instructions.
// Of the second run of a program that makes a system call of one number before each run and after
// the last: the first run also does what is done once. Without a number, of the whole program.
// Arguments: mark=NUMBER, out=PATH. A line: executions, a space, the bytes of each instruction in
// hexadecimal, spaces between; the last line says "end". Blocks of the same instructions are one.
#include "qemu_plugin.h"

// Version 3 copies to the caller; before, the pointer was the result and further arguments were not
// there.
size_t qemu_plugin_insn_data(const struct qemu_plugin_insn* instruction, void* target, size_t size);

enum { BUCKETS = 1 << 14, LONGEST = 16 };

typedef struct block {
  struct block* next;
  uint64_t executions;
  size_t length;
  char text[];
} block;

static block* buckets[BUCKETS];
static const char* out_path;
static int is_data_copied;
static int64_t marking;
static int num_marks;

static void read_instruction(const struct qemu_plugin_insn* instruction, uint8_t* bytes,
                             size_t size) {
  const size_t result = qemu_plugin_insn_data(instruction, bytes, size);
  if (!is_data_copied) memcpy(bytes, (const void*)result, size);
}

// The block with this text, made where it is new.
static block* find(const char* text, size_t length) {
  uint64_t hash = UINT64_C(14695981039346656037);
  for (size_t i = 0; i < length; ++i) hash = (hash ^ (uint8_t)text[i]) * UINT64_C(1099511628211);
  block** at = &buckets[hash % BUCKETS];
  for (; *at; at = &(*at)->next)
    if ((*at)->length == length && memcmp((*at)->text, text, length) == 0) return *at;
  block* made = calloc(1, sizeof *made + length + 1);
  if (!made) abort();
  made->length = length;
  memcpy(made->text, text, length);
  return *at = made;
}

// QEMU translates one block at a time, so there is nothing to lock.
static void on_translate(qemu_plugin_id_t id, struct qemu_plugin_tb* translated) {
  (void)id;
  const size_t count = qemu_plugin_tb_n_insns(translated);
  char* text = malloc(count * (2 * LONGEST + 1) + 1);
  if (!text) abort();
  size_t length = 0;
  for (size_t i = 0; i < count; ++i) {
    const struct qemu_plugin_insn* instruction = qemu_plugin_tb_get_insn(translated, i);
    const size_t size = qemu_plugin_insn_size(instruction);
    uint8_t bytes[LONGEST] = {0};
    if (size > sizeof bytes) abort();
    read_instruction(instruction, bytes, size);
    if (i) text[length++] = ' ';
    for (size_t k = 0; k < size; ++k) {
      text[length++] = "0123456789abcdef"[bytes[k] >> 4];
      text[length++] = "0123456789abcdef"[bytes[k] & 15];
    }
  }
  add_on_execution(translated, &find(text, length)->executions, 1);
  free(text);
}

static void write_blocks(void) {
  FILE* out = fopen(out_path, "w");
  if (!out) return;  // the reader misses the file and says so
  for (size_t i = 0; i < BUCKETS; ++i)
    for (const block* found = buckets[i]; found; found = found->next)
      if (found->executions) fprintf(out, "%" PRIu64 " %s\n", found->executions, found->text);
  fputs("end\n", out);
  fclose(out);
}

static void at_exit(qemu_plugin_id_t id, void* data) {
  (void)id, (void)data;
  write_blocks();
}

static void on_call(qemu_plugin_id_t id, unsigned int vcpu, int64_t number, uint64_t a1,
                    uint64_t a2, uint64_t a3, uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7,
                    uint64_t a8) {
  (void)id, (void)vcpu, (void)a1, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7;
  (void)a8;
  if (number != marking) return;
  ++num_marks;
  if (num_marks == 2)
    for (size_t i = 0; i < BUCKETS; ++i)
      for (block* found = buckets[i]; found; found = found->next) found->executions = 0;
  if (num_marks == 3) write_blocks();
}

EXPORTED int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info* info,
                                 int num_arguments, char** arguments) {
  for (int i = 0; i < num_arguments; ++i) {
    if (strncmp(arguments[i], "out=", 4) == 0) out_path = strdup(arguments[i] + 4);
    if (strncmp(arguments[i], "mark=", 5) == 0) marking = atoll(arguments[i] + 5);
  }
  if (!out_path) return -1;
  is_data_copied = info->version.cur >= 3;
  qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate);
  if (marking)
    qemu_plugin_register_vcpu_syscall_cb(id, on_call);
  else
    qemu_plugin_register_atexit_cb(id, at_exit, NULL);
  return 0;
}
