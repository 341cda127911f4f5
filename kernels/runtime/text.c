/* Text for people and programs, and the error messages of the executable. */
#define _GNU_SOURCE /* POSIX calls under -std=c11 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "program.h"

/* Not inlined: every message calls them, and none is hurried. */
__attribute__((noinline)) void flush(text* out) {
  for (size_t done = 0; done < out->used && !out->is_failed;) {
    const ssize_t count = write(out->fd, out->data + done, out->used - done);
    if (count > 0) done += (size_t)count;
    if (count < 0 && errno != EINTR) out->is_failed = 1;
  }
  out->used = 0;
}

__attribute__((noinline)) void put(text* out, const char* string) {
  for (; *string; ++string) {
    if (out->used == sizeof out->data) flush(out);
    out->data[out->used++] = *string;
  }
}

static void put_number(text* out, uint64_t value, unsigned base) {
  char digits[24];
  char* first = digits + sizeof digits - 1;
  *first = 0;
  do {
    *--first = "0123456789abcdef"[value % base];
    value /= base;
  } while (value);
  put(out, first);
}

void put_count(text* out, uint64_t value) { put_number(out, value, 10); }

void put_hex(text* out, uint64_t value) { put_number(out, value, 16); }

text error_line(void) {
  text out = {.fd = STDERR_FILENO};
  put(&out, HAQNAS_MODEL.name);
  put(&out, ": error: ");
  return out;
}

int end_line(text* out, int exit_code) {
  put(out, "\n");
  flush(out);
  return exit_code;
}

int fail(int exit_code, const char* message, const char* subject, const char* way_out) {
  text out = error_line();
  put(&out, message);
  put(&out, subject);
  put(&out, way_out);
  return end_line(&out, exit_code);
}

int fail_errno(int exit_code, const char* action, const char* path) {
  text out = error_line();
  const int reason = errno;
  put(&out, action);
  put(&out, path);
  put(&out, ": ");
  put(&out, strerror(reason));
  return end_line(&out, exit_code);
}

int end_output(text* out) {
  flush(out);
  return out->is_failed ? fail_errno(EXIT_DEVICE, "cannot write to ", "standard output") : 0;
}

int fail_usage(const char* message, const char* subject) {
  text out = error_line();
  put(&out, message);
  put(&out, subject);
  put(&out, "; --help shows what there is");
  return end_line(&out, EXIT_USAGE);
}
