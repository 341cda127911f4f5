// What our QEMU plugins share: the few declarations of QEMU's plugin interface that they need,
// because distributions do not ship its header with the emulator. Works with its versions 1 (QEMU
// up to 8.1), 2 and later.
#ifndef HAQNAS_QEMU_PLUGIN_H_
#define HAQNAS_QEMU_PLUGIN_H_

#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORTED __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_info {
  const char* target_name;
  struct {
    int min;
    int cur;
  } version;
};
enum { QEMU_PLUGIN_INLINE_ADD_U64 = 0, QEMU_PLUGIN_CB_NO_REGS = 0 };

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id,
                                           void (*on_translate)(qemu_plugin_id_t,
                                                                struct qemu_plugin_tb*));
// Version 1 only: absent elsewhere.
__attribute__((weak)) void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb* block,
                                                                    int operation, void* target,
                                                                    uint64_t immediate);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb* block,
                                          void (*on_execute)(unsigned int vcpu, void* data),
                                          int flags, void* data);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t id, void (*at_exit)(qemu_plugin_id_t, void*),
                                    void* data);
void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t id,
                                          void (*on_call)(qemu_plugin_id_t, unsigned int vcpu,
                                                          int64_t number, uint64_t a1, uint64_t a2,
                                                          uint64_t a3, uint64_t a4, uint64_t a5,
                                                          uint64_t a6, uint64_t a7, uint64_t a8));
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb* block);
struct qemu_plugin_insn* qemu_plugin_tb_get_insn(const struct qemu_plugin_tb* block, size_t index);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn* instruction);
void qemu_plugin_outs(const char* text);

// Read by QEMU once the plugin is loaded, so the constructor below comes in time.
EXPORTED int qemu_plugin_version = 1;

__attribute__((constructor)) static void choose_version(void) {
  if (!qemu_plugin_register_vcpu_tb_exec_inline) qemu_plugin_version = 2;
}

typedef struct {
  uint64_t* target;
  uint64_t amount;
} addition;

static void add(unsigned int vcpu, void* data) {
  (void)vcpu;
  const addition* what = data;
  *what->target += what->amount;
}

// Whenever the block is executed, add `amount` to `target`.
static void add_on_execution(struct qemu_plugin_tb* block, uint64_t* target, uint64_t amount) {
  if (qemu_plugin_register_vcpu_tb_exec_inline) {
    qemu_plugin_register_vcpu_tb_exec_inline(block, QEMU_PLUGIN_INLINE_ADD_U64, target, amount);
    return;
  }
  addition* what = malloc(sizeof *what);
  if (!what) abort();
  *what = (addition){target, amount};
  qemu_plugin_register_vcpu_tb_exec_cb(block, add, QEMU_PLUGIN_CB_NO_REGS, what);
}

#endif  // HAQNAS_QEMU_PLUGIN_H_
