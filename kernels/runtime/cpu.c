/* CPU feature detection for x86-64, aarch64 and riscv64 Linux. */
#define _GNU_SOURCE /* POSIX and Linux calls under -std=c11 */
#include <sched.h>
#include <stdatomic.h>

#include "haqnas_runtime.h"

#if defined(__x86_64__)

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Registers that the system saves on a context switch (Intel SDM volume 1, section 13.3). */
#define XCR0_AVX UINT64_C(0x6)
#define XCR0_AVX512 UINT64_C(0xe6)
#define XCR0_AMX UINT64_C(0x60000)

/* Linux gives AMX's 8 KiB of registers only to processes that ask (Documentation/arch/x86/xstate).
 */
#define ARCH_REQ_XCOMP_PERM 0x1023
#define XFEATURE_XTILEDATA 18

static uint64_t saved_registers(void) {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return ((uint64_t)high << 32) | low;
}

static int is_amx_granted(void) {
  return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

static uint64_t if_bit(uint32_t word, int bit, uint64_t feature) {
  return (word >> bit) & 1 ? feature : 0;
}

static uint64_t detect(void) {
  uint32_t a, b, c, d, b7 = 0, c7 = 0, d7 = 0, c_extended = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
  const uint32_t c1 = c;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) b7 = b, c7 = c, d7 = d;
  if (__get_cpuid(0x80000001u, &a, &b, &c, &d)) c_extended = c;

  uint64_t found = if_bit(c1, 20, HAQNAS_CPU(SSE4_2)) | if_bit(c1, 22, HAQNAS_CPU(MOVBE)) |
                   if_bit(c1, 23, HAQNAS_CPU(POPCNT)) | if_bit(b7, 3, HAQNAS_CPU(BMI)) |
                   if_bit(b7, 8, HAQNAS_CPU(BMI2)) | if_bit(c_extended, 5, HAQNAS_CPU(LZCNT));
  const uint64_t saved = (c1 >> 27) & 1 ? saved_registers() : 0;
  if ((saved & XCR0_AVX) == XCR0_AVX) {
    found |= if_bit(c1, 12, HAQNAS_CPU(FMA)) | if_bit(c1, 28, HAQNAS_CPU(AVX)) |
             if_bit(c1, 29, HAQNAS_CPU(F16C)) | if_bit(b7, 5, HAQNAS_CPU(AVX2));
  }
  if ((saved & XCR0_AVX512) == XCR0_AVX512) {
    found |= if_bit(b7, 16, HAQNAS_CPU(AVX512F)) | if_bit(b7, 17, HAQNAS_CPU(AVX512DQ)) |
             if_bit(b7, 28, HAQNAS_CPU(AVX512CD)) | if_bit(b7, 30, HAQNAS_CPU(AVX512BW)) |
             if_bit(b7, 31, HAQNAS_CPU(AVX512VL)) | if_bit(c7, 1, HAQNAS_CPU(AVX512VBMI)) |
             if_bit(c7, 11, HAQNAS_CPU(AVX512VNNI));
  }
  return found | ((saved & XCR0_AMX) == XCR0_AMX
                      ? if_bit(d7, 24, HAQNAS_CPU(AMX_TILE)) | if_bit(d7, 25, HAQNAS_CPU(AMX_INT8))
                      : 0);
}

/* `found` without AMX where it is required and Linux refuses it. Asked for only when a model needs
 * it: the permission makes every signal frame 8 KiB larger. */
static uint64_t granted(uint64_t found, uint64_t required) {
  static atomic_int cache; /* 0: not asked yet, 1: granted, 2: refused */
  const uint64_t amx = HAQNAS_CPU(AMX_TILE) | HAQNAS_CPU(AMX_INT8);
  if (!(required & found & amx)) return found;
  int answer = atomic_load_explicit(&cache, memory_order_relaxed);
  if (answer == 0) {
    answer = is_amx_granted() ? 1 : 2;
    atomic_store_explicit(&cache, answer, memory_order_relaxed);
  }
  return answer == 1 ? found : found & ~amx;
}

#elif defined(__aarch64__)

#include <sys/auxv.h>

/* Bits of AT_HWCAP and AT_HWCAP2, arch/arm64/include/uapi/asm/hwcap.h of Linux. */
static uint64_t detect(void) {
  static const struct {
    unsigned char bit;
    uint64_t feature;
  } first[] = {{1, HAQNAS_CPU(ASIMD)}, {7, HAQNAS_CPU(CRC)},   {8, HAQNAS_CPU(LSE)},
               {10, HAQNAS_CPU(FP16)}, {12, HAQNAS_CPU(RDM)},  {13, HAQNAS_CPU(JSCVT)},
               {14, HAQNAS_CPU(FCMA)}, {15, HAQNAS_CPU(RCPC)}, {20, HAQNAS_CPU(DOTPROD)},
               {22, HAQNAS_CPU(SVE)}},
    second[] = {{13, HAQNAS_CPU(I8MM)}, {14, HAQNAS_CPU(BF16)}};
  const unsigned long hwcap = getauxval(AT_HWCAP), hwcap2 = getauxval(AT_HWCAP2);
  uint64_t found = 0;
  for (size_t i = 0; i < sizeof first / sizeof first[0]; ++i)
    if ((hwcap >> first[i].bit) & 1) found |= first[i].feature;
  for (size_t i = 0; i < sizeof second / sizeof second[0]; ++i)
    if ((hwcap2 >> second[i].bit) & 1) found |= second[i].feature;
  return found;
}

static uint64_t granted(uint64_t found, uint64_t required) {
  (void)required;
  return found;
}

#elif defined(__riscv) && __riscv_xlen == 64

#include <sys/auxv.h>

/* AT_HWCAP has one bit per single-letter extension, 'a' first. */
static uint64_t detect(void) {
  return (getauxval(AT_HWCAP) >> ('v' - 'a')) & 1 ? HAQNAS_CPU(V) : 0;
}

static uint64_t granted(uint64_t found, uint64_t required) {
  (void)required;
  return found;
}

#else
#error \
    "haqnas runs on x86-64, aarch64 and riscv64 Linux; add the detection of your CPU's features here"
#endif

uint64_t haqnas_cpu_missing(uint64_t required) {
  /* Two threads may both look: they find the same, so the race is harmless. */
  static _Atomic uint64_t cache;
  const uint64_t is_known = UINT64_C(1) << 63;
  uint64_t found = atomic_load_explicit(&cache, memory_order_relaxed);
  if (!found) {
    found = detect() | is_known;
    atomic_store_explicit(&cache, found, memory_order_relaxed);
  }
  return required & ~granted(found, required);
}

int haqnas_cpu_count(void) {
  cpu_set_t allowed;
  return sched_getaffinity(0, sizeof allowed, &allowed) ? CPU_SETSIZE : CPU_COUNT(&allowed);
}

const char* haqnas_cpu_feature_name(int bit) {
  static const char* const names[] = {
#define HAQNAS_CPU_FEATURE(enumerator, name, architecture) name,
#include "cpu_features.inc"
#undef HAQNAS_CPU_FEATURE
  };
  return bit >= 0 && bit < HAQNAS_CPU_BIT_COUNT ? names[bit] : "unknown";
}
