/* tile_emulator PROGRAM ARGUMENT...: runs a program and executes AMX's int8 tile instructions for
 * it, so that code for AMX is tested on CPUs that lack it. Elsewhere these raise SIGILL, where this
 * tracer steps in.
 *
 * It is stricter than lenient: what the manual forbids (Intel SDM volume 2, LDTILECFG, TDPBUSD ...)
 * ends the program with a message and exit code 125.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
  TILES = 8,
  ROWS = 16,
  ROW_BYTES = 64,
  CONFIG_BYTES = 64,
  THREADS = 64,
  PAGE_BYTES = 4096,
  LONGEST_INSTRUCTION = 15,
  EXIT_FORBIDDEN = 125
};

typedef struct {
  pid_t thread; /* 0: free */
  uint8_t config[CONFIG_BYTES];
  uint8_t data[TILES][ROWS][ROW_BYTES];
} Tiles;

typedef struct {
  int prefix; /* pp: 0 none, 1 is 66, 2 is F3, 3 is F2 */
  int opcode, reg, rm, vvvv;
  int is_memory, has_sib;
  uint64_t base, stride;
  int size_bytes;
} Instruction;

static pid_t program;

static void forbid(const struct user_regs_struct* registers, const char* rule) {
  fprintf(stderr, "tile_emulator: at %#llx: %s\n", (unsigned long long)registers->rip, rule);
  kill(program, SIGKILL);
  exit(EXIT_FORBIDDEN);
}

/* Tiles ------------------------------------------------------------------------------------- */

static int colsb(const Tiles* tiles, int tile) {
  return tiles->config[16 + 2 * tile] | tiles->config[17 + 2 * tile] << 8;
}

static int rows(const Tiles* tiles, int tile) { return tiles->config[48 + tile]; }

static int is_zero(const uint8_t* bytes, int count) {
  for (int i = 0; i < count; ++i)
    if (bytes[i]) return 0;
  return 1;
}

/* The rule that a configuration breaks, NULL for none. */
static const char* broken_rule(const Tiles* tiles) {
  const uint8_t* config = tiles->config;
  if (config[0] > 1) return "LDTILECFG: the only palette is 1";
  if (!is_zero(config + 2, 14) || !is_zero(config + 32, 16) || !is_zero(config + 56, 8))
    return "LDTILECFG: reserved bytes must be zero";
  for (int t = 0; t < TILES; ++t) {
    if (colsb(tiles, t) > ROW_BYTES) return "LDTILECFG: a row has at most 64 bytes";
    if (rows(tiles, t) > ROWS) return "LDTILECFG: a tile has at most 16 rows";
    if (!rows(tiles, t) != !colsb(tiles, t))
      return "LDTILECFG: rows and bytes of a row are zero together";
  }
  return NULL;
}

static void require_tile(const Tiles* tiles, int tile, const struct user_regs_struct* registers) {
  if (tiles->config[0] != 1) forbid(registers, "no tiles are configured");
  if (tile >= TILES) forbid(registers, "there are 8 tiles");
  if (!rows(tiles, tile)) forbid(registers, "this tile is not configured");
}

/* total += a * b: unsigned bytes of a, signed bytes of b, four neighbours to a sum */
static void multiply(Tiles* tiles, const Instruction* it,
                     const struct user_regs_struct* registers) {
  const int total = it->reg, a = it->rm, b = it->vvvv;
  for (int i = 0; i < 3; ++i) require_tile(tiles, (const int[]){total, a, b}[i], registers);
  if (total == a || total == b || a == b) forbid(registers, "TDPBUSD: the three tiles must differ");
  if ((colsb(tiles, total) | colsb(tiles, a) | colsb(tiles, b)) % 4)
    forbid(registers, "TDPBUSD: rows are whole groups of four bytes");
  if (rows(tiles, total) != rows(tiles, a))
    forbid(registers, "TDPBUSD: rows of sums and of A must agree");
  if (colsb(tiles, total) != colsb(tiles, b))
    forbid(registers, "TDPBUSD: columns of sums and of B must agree");
  if (colsb(tiles, a) / 4 != rows(tiles, b))
    forbid(registers, "TDPBUSD: columns of A and rows of B must agree");
  const int columns = colsb(tiles, b) / 4;
  for (int m = 0; m < rows(tiles, a); ++m) {
    uint32_t sums[ROW_BYTES / 4];
    memcpy(sums, tiles->data[total][m], sizeof sums);
    for (int k = 0; k < rows(tiles, b); ++k) {
      const uint8_t* left = tiles->data[a][m] + 4 * k;
      const int8_t* right = (const int8_t*)tiles->data[b][k];
      for (int n = 0; n < columns; ++n)
        for (int i = 0; i < 4; ++i) sums[n] += (uint32_t)(left[i] * right[4 * n + i]);
    }
    memset(tiles->data[total][m], 0, ROW_BYTES);
    memcpy(tiles->data[total][m], sums, (size_t)(4 * columns));
  }
  memset(tiles->data[total][rows(tiles, a)], 0, (size_t)((ROWS - rows(tiles, a)) * ROW_BYTES));
}

/* Memory ------------------------------------------------------------------------------------- */

/* The rows of a tile, or the one row of a configuration, there. */
static void move(int is_load, uint8_t* here, uint64_t address, uint64_t stride, int count, int size,
                 const struct user_regs_struct* registers) {
  struct iovec local[ROWS], remote[ROWS];
  for (int i = 0; i < count; ++i) {
    local[i] = (struct iovec){here + i * ROW_BYTES, (size_t)size};
    remote[i] = (struct iovec){(void*)(uintptr_t)(address + (uint64_t)i * stride), (size_t)size};
  }
  const unsigned long parts = (unsigned long)count;
  const ssize_t moved = is_load ? process_vm_readv(program, local, parts, remote, parts, 0)
                                : process_vm_writev(program, local, parts, remote, parts, 0);
  if (moved != (ssize_t)count * size) forbid(registers, "memory that is not the program's");
}

/* Up to LONGEST_INSTRUCTION bytes of code; those past the end of the code are zero. */
static void read_code(uint64_t address, uint8_t* code) {
  memset(code, 0, LONGEST_INSTRUCTION);
  size_t first = PAGE_BYTES - address % PAGE_BYTES;
  if (first > LONGEST_INSTRUCTION) first = LONGEST_INSTRUCTION;
  const struct iovec local = {code, LONGEST_INSTRUCTION};
  const struct iovec remote[] = {
      {(void*)(uintptr_t)address, first},
      {(void*)(uintptr_t)(address + first), LONGEST_INSTRUCTION - first}};
  process_vm_readv(program, &local, 1, remote, first < LONGEST_INSTRUCTION ? 2 : 1, 0);
}

/* Instructions -------------------------------------------------------------------------------- */

static uint64_t general_register(const struct user_regs_struct* r, int number) {
  const uint64_t values[] = {r->rax, r->rcx, r->rdx, r->rbx, r->rsp, r->rbp, r->rsi, r->rdi,
                             r->r8,  r->r9,  r->r10, r->r11, r->r12, r->r13, r->r14, r->r15};
  return values[number];
}

/* Whether these are bytes of a tile instruction: VEX.128.0F38.W0 49, 4B or 5E. */
static int decode(const uint8_t* code, const struct user_regs_struct* registers, Instruction* it) {
  if (code[0] != 0xc4 || (code[1] & 0x1f) != 2 || (code[2] & 0x84)) return 0;
  if (code[3] != 0x49 && code[3] != 0x4b && code[3] != 0x5e) return 0;
  const int extends_reg = !(code[1] & 0x80), extends_index = !(code[1] & 0x40),
            extends_base = !(code[1] & 0x20);
  const int mod = code[4] >> 6, low = code[4] & 7;
  *it = (Instruction){.prefix = code[2] & 3,
                      .opcode = code[3],
                      .reg = (code[4] >> 3 & 7) | extends_reg << 3,
                      .rm = low | extends_base << 3,
                      .vvvv = ~code[2] >> 3 & 15,
                      .is_memory = mod != 3,
                      .has_sib = mod != 3 && low == 4,
                      .size_bytes = 5};
  if (!it->is_memory) return 1;
  int base = it->rm, is_relative = mod == 0 && low == 5, has_base = !is_relative;
  if (it->has_sib) {
    const int sib = code[it->size_bytes++];
    const int index = (sib >> 3 & 7) | extends_index << 3;
    base = (sib & 7) | extends_base << 3;
    has_base = !(mod == 0 && (sib & 7) == 5);
    it->stride = index == 4 ? 0 : general_register(registers, index) << (sib >> 6);
  }
  const int shift_bytes = mod == 1 ? 1 : mod == 2 || !has_base ? 4 : 0;
  int32_t shift = 0;
  memcpy(&shift, code + it->size_bytes, (size_t)shift_bytes);
  if (shift_bytes == 1) shift = (int8_t)shift;
  it->size_bytes += shift_bytes;
  it->base = (uint64_t)(int64_t)shift;
  if (has_base) it->base += general_register(registers, base);
  if (is_relative) it->base += registers->rip + (uint64_t)it->size_bytes;
  return 1;
}

static void configure(Tiles* tiles, const Instruction* it,
                      const struct user_regs_struct* registers) {
  move(1, tiles->config, it->base, 0, 1, CONFIG_BYTES, registers);
  const char* rule = broken_rule(tiles);
  if (rule) forbid(registers, rule);
  memset(tiles->data, 0, sizeof tiles->data);
  if (!tiles->config[0]) memset(tiles->config, 0, CONFIG_BYTES);
}

static void load_or_store(Tiles* tiles, const Instruction* it,
                          const struct user_regs_struct* registers) {
  require_tile(tiles, it->reg, registers);
  if (!it->has_sib) forbid(registers, "TILELOADD, TILESTORED: the address has an index");
  if (tiles->config[1]) forbid(registers, "tile_emulator knows no start row but 0");
  uint8_t* first = tiles->data[it->reg][0];
  const int is_load = it->prefix != 2;
  if (is_load) memset(first, 0, ROWS * ROW_BYTES);
  move(is_load, first, it->base, it->stride, rows(tiles, it->reg), colsb(tiles, it->reg),
       registers);
}

/* Executes one tile instruction; 0 where it is none of those that this program knows. */
static int execute(Tiles* tiles, const Instruction* it, const struct user_regs_struct* registers) {
  const int is_bare = it->vvvv == 0; /* no third operand */
  if (it->opcode == 0x49 && it->is_memory && it->reg == 0 && is_bare && it->prefix == 0) {
    configure(tiles, it, registers);
  } else if (it->opcode == 0x49 && it->is_memory && it->reg == 0 && is_bare && it->prefix == 1) {
    move(0, tiles->config, it->base, 0, 1, CONFIG_BYTES, registers);
  } else if (it->opcode == 0x49 && !it->is_memory && it->rm == 0 && is_bare && it->prefix == 3) {
    require_tile(tiles, it->reg, registers);
    memset(tiles->data[it->reg], 0, sizeof tiles->data[0]);
  } else if (it->opcode == 0x49 && !it->is_memory && it->rm == 0 && it->reg == 0 && is_bare &&
             it->prefix == 0) {
    memset(tiles->config, 0, CONFIG_BYTES);
    memset(tiles->data, 0, sizeof tiles->data);
  } else if (it->opcode == 0x4b && it->is_memory && is_bare && it->prefix != 0) {
    load_or_store(tiles, it, registers);
  } else if (it->opcode == 0x5e && !it->is_memory && it->prefix == 1) {
    multiply(tiles, it, registers);
  } else {
    return 0;
  }
  return 1;
}

/* Executes the tile instructions from the program counter on; 0 where there is none. */
static int emulate(Tiles* tiles) {
  struct user_regs_struct registers;
  if (ptrace(PTRACE_GETREGS, tiles->thread, NULL, &registers)) return 0;
  uint8_t code[LONGEST_INSTRUCTION];
  Instruction it;
  int count = 0;
  while (read_code(registers.rip, code),
         decode(code, &registers, &it) && execute(tiles, &it, &registers)) {
    registers.rip += (uint64_t)it.size_bytes;
    ++count;
  }
  if (count) ptrace(PTRACE_SETREGS, tiles->thread, NULL, &registers);
  return count;
}

/* The program --------------------------------------------------------------------------------- */

static Tiles* tiles_of(pid_t thread) {
  static Tiles all[THREADS];
  for (int i = 0; i < THREADS; ++i)
    if (all[i].thread == thread) return &all[i];
  for (int i = 0; i < THREADS; ++i) {
    if (all[i].thread) continue;
    all[i].thread = thread;
    return &all[i];
  }
  fprintf(stderr, "tile_emulator: more than %d threads\n", THREADS);
  kill(program, SIGKILL);
  exit(EXIT_FORBIDDEN);
}

/* The signal that a stopped thread goes on with. */
static int answer(pid_t thread, int status) {
  const int signal = WSTOPSIG(status);
  if (status >> 16) return 0;      /* the event of a new thread */
  if (signal == SIGSTOP) return 0; /* how a new thread starts */
  if (signal == SIGILL && emulate(tiles_of(thread))) return 0;
  return signal;
}

static int watch(void) {
  for (;;) {
    int status;
    const pid_t thread = waitpid(-1, &status, __WALL);
    if (thread < 0 && errno != EINTR) return EXIT_FORBIDDEN;
    if (thread < 0) continue;
    if (WIFSTOPPED(status)) {
      ptrace(PTRACE_CONT, thread, NULL, (void*)(intptr_t)answer(thread, status));
    } else if (thread != program) {
      memset(tiles_of(thread), 0, sizeof(Tiles));
    } else if (WIFEXITED(status)) {
      return WEXITSTATUS(status);
    } else {
      fprintf(stderr, "tile_emulator: the program was ended by signal %d\n", WTERMSIG(status));
      return 128 + WTERMSIG(status);
    }
  }
}

int main(int argc, char** argv) {
  if (argc < 2) {
    fprintf(stderr, "usage: tile_emulator PROGRAM ARGUMENT...\n");
    return 2;
  }
  program = fork();
  if (program == 0) {
    ptrace(PTRACE_TRACEME, 0, NULL, NULL);
    execv(argv[1], argv + 1);
    perror(argv[1]);
    _exit(EXIT_FORBIDDEN);
  }
  int status;
  if (program < 0 || waitpid(program, &status, 0) < 0) {
    perror("tile_emulator");
    return EXIT_FORBIDDEN;
  }
  if (!WIFSTOPPED(status)) return WEXITSTATUS(status); /* it did not start, and said why */
  ptrace(PTRACE_SETOPTIONS, program, NULL, (void*)(PTRACE_O_TRACECLONE | PTRACE_O_EXITKILL));
  ptrace(PTRACE_CONT, program, NULL, NULL);
  return watch();
}
