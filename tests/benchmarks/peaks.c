/* What one core of this machine can do at most: multiply-accumulates of int8 per second, per kind
 * of instruction, and bytes read per second from a working set of each size given as an argument.
 * Prints one JSON object. x86-64 only. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
static const double MIN_S = 0.05; /* of one measurement */
enum { REPEATS = 5 };             /* the best one counts: this is a peak */

static double now_s(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* The same instruction on registers 0 to 11: enough of them in flight to hide its latency. */
#define TWELVE(before, register, after)                                                 \
  before register "0" after before register "1" after before register "2" after         \
      before register "3" after before register "4" after before register "5" after     \
          before register "6" after before register "7" after before register "8" after \
              before register "9" after before register "10" after before register "11" after

static void multiply_vnni(long count) {
  for (long i = 0; i < count; ++i)
    __asm__ volatile(TWELVE("vpdpbusd %%zmm30, %%zmm31, ", "%%zmm", "\n")::
                         : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
                           "xmm9", "xmm10", "xmm11");
}

/* AVX2 has no exact int8 dot product: operands widened to 16 bits, multiplied in pairs, added. */
static void multiply_avx2(long count) {
  for (long i = 0; i < count; ++i)
    __asm__ volatile(
        "vpmaddwd %%ymm14, %%ymm15, %%ymm6\n vpaddd %%ymm6, %%ymm0, %%ymm0\n"
        "vpmaddwd %%ymm14, %%ymm15, %%ymm7\n vpaddd %%ymm7, %%ymm1, %%ymm1\n"
        "vpmaddwd %%ymm14, %%ymm15, %%ymm8\n vpaddd %%ymm8, %%ymm2, %%ymm2\n"
        "vpmaddwd %%ymm14, %%ymm15, %%ymm9\n vpaddd %%ymm9, %%ymm3, %%ymm3\n"
        "vpmaddwd %%ymm14, %%ymm15, %%ymm10\n vpaddd %%ymm10, %%ymm4, %%ymm4\n"
        "vpmaddwd %%ymm14, %%ymm15, %%ymm11\n vpaddd %%ymm11, %%ymm5, %%ymm5\n" ::
            : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
              "xmm10", "xmm11");
}

static void multiply_amx(long count) {
  for (long i = 0; i < count; ++i)
    __asm__ volatile(
        "tdpbusd %tmm6, %tmm4, %tmm0\n tdpbusd %tmm7, %tmm4, %tmm1\n"
        "tdpbusd %tmm6, %tmm5, %tmm2\n tdpbusd %tmm7, %tmm5, %tmm3\n");
}

/* Eight tiles of 16 rows of 64 bytes. */
static void load_tiles(void) {
  struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  } config = {.palette = 1};
  static uint8_t zeros[1024] __attribute__((aligned(64)));
  for (int i = 0; i < 8; ++i) {
    config.row_bytes[i] = 64;
    config.rows[i] = 16;
  }
  __asm__ volatile("ldtilecfg %0" ::"m"(config));
  __asm__ volatile(
      "tileloadd (%0,%1), %%tmm4\n tileloadd (%0,%1), %%tmm5\n"
      "tileloadd (%0,%1), %%tmm6\n tileloadd (%0,%1), %%tmm7\n"
      "tilezero %%tmm0\n tilezero %%tmm1\n tilezero %%tmm2\n tilezero %%tmm3\n" ::"r"(zeros),
      "r"((int64_t)64)
      : "memory");
}

static double rate(void (*multiply)(long), double macs_per_call) {
  double best = 0;
  for (int repeat = 0; repeat < REPEATS; ++repeat) {
    long count = 1000;
    for (;;) {
      const double start_s = now_s();
      multiply(count);
      const double taken_s = now_s() - start_s;
      const double found = macs_per_call * (double)count / taken_s;
      if (taken_s >= MIN_S && found > best) best = found;
      if (taken_s >= MIN_S) break;
      count *= 2;
    }
  }
  return best;
}

static void read_all(const uint8_t* data, size_t size, int has_avx512) {
  if (has_avx512) {
    for (size_t at = 0; at < size; at += 256)
      __asm__ volatile(
          "vmovdqa64 (%0), %%zmm0\n vmovdqa64 64(%0), %%zmm1\n"
          "vmovdqa64 128(%0), %%zmm2\n vmovdqa64 192(%0), %%zmm3\n" ::"r"(data + at)
          : "xmm0", "xmm1", "xmm2", "xmm3");
  } else {
    for (size_t at = 0; at < size; at += 128)
      __asm__ volatile(
          "vmovdqa (%0), %%ymm0\n vmovdqa 32(%0), %%ymm1\n"
          "vmovdqa 64(%0), %%ymm2\n vmovdqa 96(%0), %%ymm3\n" ::"r"(data + at)
          : "xmm0", "xmm1", "xmm2", "xmm3");
  }
}

static double read_rate(size_t wanted_size, int has_avx512) {
  const size_t size = (wanted_size + 255) / 256 * 256;
  uint8_t* data = aligned_alloc(256, size);
  if (!data) exit(4);
  memset(data, 1, size);
  double best = 0;
  for (int repeat = 0; repeat < REPEATS; ++repeat) {
    double read_bytes = 0, taken_s = 0;
    const double start_s = now_s();
    do {
      read_all(data, size, has_avx512);
      read_bytes += (double)size;
      taken_s = now_s() - start_s;
    } while (taken_s < MIN_S);
    if (read_bytes / taken_s > best) best = read_bytes / taken_s;
  }
  free(data);
  return best;
}

/* `peaks avx2,avx512-vnni,amx-int8 SIZE...`: the caller knows what the CPU has. */
int main(int argc, char** argv) {
  const char* isas = argc > 1 ? argv[1] : "";
  const int has_avx512 = strstr(isas, "avx512-vnni") != NULL;
  if (!strstr(isas, "avx2")) {
    fputs("peaks: needs a CPU with AVX2\n", stderr);
    return 4;
  }
  printf("{\"macs_per_s\": {\"avx2\": %.4g", rate(multiply_avx2, 6 * 16));
  if (has_avx512) printf(", \"avx512-vnni\": %.4g", rate(multiply_vnni, 12 * 64));
  if (strstr(isas, "amx-int8")) {
    if (syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) != 0) return 4;
    load_tiles();
    printf(", \"amx-int8\": %.4g", rate(multiply_amx, 4 * 16384));
    __asm__ volatile("tilerelease");
  }
  printf("}, \"read_bytes_per_s\": [");
  for (int i = 2; i < argc; ++i)
    printf("%s%.4g", i > 2 ? ", " : "", read_rate(strtoul(argv[i], NULL, 10), has_avx512));
  puts("]}");
  return 0;
}
