// QEMU plugin: logs how many instructions the guest has executed at each system call of one number.
// A kernel set makes that call, which does nothing, after each of its kernel calls. Argument:
// mark=NUMBER.
#include "qemu_plugin.h"

static uint64_t num_instructions;
static int64_t marking;

static void on_translate(qemu_plugin_id_t id, struct qemu_plugin_tb* block) {
  (void)id;
  add_on_execution(block, &num_instructions, qemu_plugin_tb_n_insns(block));
}

static void on_call(qemu_plugin_id_t id, unsigned int vcpu, int64_t number, uint64_t a1,
                    uint64_t a2, uint64_t a3, uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7,
                    uint64_t a8) {
  (void)id, (void)vcpu, (void)a1, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7;
  (void)a8;
  if (number != marking) return;
  char line[64];
  snprintf(line, sizeof line, "haqnas-mark %" PRIu64 "\n", num_instructions);
  qemu_plugin_outs(line);
}

EXPORTED int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info* info,
                                 int num_arguments, char** arguments) {
  (void)info;
  for (int i = 0; i < num_arguments; ++i)
    if (strncmp(arguments[i], "mark=", 5) == 0) marking = atoll(arguments[i] + 5);
  qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate);
  qemu_plugin_register_vcpu_syscall_cb(id, on_call);
  return 0;
}
