/* Parts of the executable of one model: text output, buffers, the jobs that main.c chooses between.
 *
 * Compiled with -DHAQNAS_MODEL=<the model's description>. Writes by write(2) alone: stdio would be
 * a third of the program. */
#ifndef HAQNAS_PROGRAM_H_
#define HAQNAS_PROGRAM_H_

#include "haqnas_runtime.h"

extern const haqnas_model HAQNAS_MODEL;

/* Usage or a wrong input file; the CPU, reading, writing or memory; another result than expected.
 */
enum { EXIT_USAGE = 2, EXIT_DEVICE = 4, EXIT_MISMATCH = 5 };

/* text.c: a line or more, gathered so that it leaves in few writes. */
typedef struct {
  int fd;
  int is_failed;
  size_t used;
  char data[1024];
} text;

void flush(text* out);
void put(text* out, const char* string);
void put_count(text* out, uint64_t value);
void put_hex(text* out, uint64_t value);
int end_output(text* out); /* flushes; returns the exit code */

/* Each writes one line to standard error and returns the exit code. */
text error_line(void);
int end_line(text* out, int exit_code);
int fail(int exit_code, const char* message, const char* subject, const char* way_out);
int fail_errno(int exit_code, const char* action, const char* path);
int fail_usage(const char* message, const char* subject);

/* buffers.c: what one run works on. */
typedef struct {
  void** inputs;
  void** outputs;
  void* workspace;
  int threads; /* that run the model, where it was compiled for several */
} buffers;

/* Each returns 0 or the exit code, after a message. */
int check_cpu(void);
int allocate_buffers(buffers* made);
void release_buffers(buffers* memory);
int run_once(const buffers* memory);
int prepare_made_up(
    buffers* memory); /* checks the CPU, allocates, fills the inputs with made-up values */

/* The jobs; each returns the exit code. */
int run_golden(int threads);                         /* golden.c */
int run_bench(int count, char** words, int threads); /* bench.c; what stands after --bench */
int run_repeat(const char* runs, int threads);       /* bench.c */
#ifdef HAQNAS_MARKED
int run_layers(const char* runs, int threads); /* bench.c */
#endif
int run_files(const char* const* paths, const char* folder, int threads); /* files.c */

/* bench.c: a number from 1 to `most`, or 0. */
long read_count(const char* word, long most);

#endif /* HAQNAS_PROGRAM_H_ */
