// QEMU plugin: counts the instructions that the guest executes and logs the sum at exit.
// The few declarations of QEMU's plugin interface (version 1) stand here, because distributions do
// not ship its header with the emulator.
#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_info;
struct qemu_plugin_tb;
enum { QEMU_PLUGIN_INLINE_ADD_U64 = 0 };

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id,
                                           void (*on_translate)(qemu_plugin_id_t,
                                                                struct qemu_plugin_tb*));
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb* block, int operation,
                                              void* target, uint64_t immediate);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t id,
                                    void (*report_sum)(qemu_plugin_id_t, void*), void* data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb* block);
void qemu_plugin_outs(const char* text);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

static uint64_t num_instructions;

static void on_translate(qemu_plugin_id_t id, struct qemu_plugin_tb* block) {
  (void)id;
  qemu_plugin_register_vcpu_tb_exec_inline(block, QEMU_PLUGIN_INLINE_ADD_U64, &num_instructions,
                                           qemu_plugin_tb_n_insns(block));
}

static void report_sum(qemu_plugin_id_t id, void* data) {
  (void)id;
  (void)data;
  char line[64];
  snprintf(line, sizeof line, "haqnas-instructions %" PRIu64 "\n", num_instructions);
  qemu_plugin_outs(line);
}

__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id,
                                                               const struct qemu_info* info,
                                                               int num_arguments,
                                                               char** arguments) {
  (void)info;
  (void)num_arguments;
  (void)arguments;
  qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate);
  qemu_plugin_register_atexit_cb(id, report_sum, NULL);
  return 0;
}
