/* INPUT.bin... -o OUTDIR: run the model on each record of the files. */
#define _GNU_SOURCE /* POSIX calls under -std=c11 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h> /* rename */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "program.h"

/* 0 on success; -1 with errno set; 1 when the file ends early. */
static int read_all(int fd, void* data, size_t size_bytes) {
  for (size_t done = 0; done < size_bytes;) {
    const ssize_t count = read(fd, (char*)data + done, size_bytes - done);
    if (count == 0) return 1;
    if (count > 0) done += (size_t)count;
    if (count < 0 && errno != EINTR) return -1;
  }
  return 0;
}

static int write_all(int fd, const void* data, size_t size_bytes) {
  for (size_t done = 0; done < size_bytes;) {
    const ssize_t count = write(fd, (const char*)data + done, size_bytes - done);
    if (count > 0) done += (size_t)count;
    if (count < 0 && errno != EINTR) return -1;
  }
  return 0;
}

static int fail_size(const char* path, uint64_t got_bytes, int32_t index) {
  const haqnas_tensor* tensor = &HAQNAS_MODEL.inputs[index];
  text out = error_line();
  put(&out, path);
  put(&out, " holds ");
  put_count(&out, got_bytes);
  put(&out, " bytes, but expected ");
  put_count(&out, tensor->size_bytes);
  put(&out, " (or a multiple, one record after the other) for input ");
  put_count(&out, (uint64_t)index);
  put(&out, ", ");
  put(&out, tensor->name);
  put(&out, tensor->dtype == HAQNAS_FLOAT32 ? ": float32 [" : ": uint8 [");
  for (int32_t i = 0; i < tensor->rank; ++i) {
    if (i) put(&out, ", ");
    put_count(&out, (uint64_t)tensor->shape[i]);
  }
  put(&out, "]");
  return end_line(&out, EXIT_USAGE);
}

static int open_input(const char* path, int32_t index, int* fd, uint64_t* records) {
  struct stat facts;
  *fd = open(path, O_RDONLY | O_CLOEXEC);
  if (*fd < 0 || fstat(*fd, &facts)) {
    return fail_errno(EXIT_USAGE, "cannot read ", path);
  }
  if (!S_ISREG(facts.st_mode))
    return fail(EXIT_USAGE, path, " is not a file", "; give a file of raw input bytes");
  const uint64_t size = (uint64_t)facts.st_size, record = HAQNAS_MODEL.inputs[index].size_bytes;
  if (size == 0 || size % record) return fail_size(path, size, index);
  if (index > 0 && size / record != *records) {
    text out = error_line();
    put(&out, path);
    put(&out, " holds ");
    put_count(&out, size / record);
    put(&out, " records, but the files before it hold ");
    put_count(&out, *records);
    put(&out, "; give as many of each");
    return end_line(&out, EXIT_USAGE);
  }
  *records = size / record;
  return 0;
}

static int read_input(const char* path, int fd, int32_t index, void* data) {
  const haqnas_tensor* tensor = &HAQNAS_MODEL.inputs[index];
  const int result = read_all(fd, data, tensor->size_bytes);
  if (result < 0) return fail_errno(EXIT_DEVICE, "cannot read ", path);
  if (result > 0) return fail(EXIT_DEVICE, path, " became shorter while it was read", "");
  const uint8_t* bytes = data;
  for (size_t i = 0; tensor->dtype == HAQNAS_UINT8 && i < tensor->size_bytes; ++i) {
    if (bytes[i] <= tensor->quant_max) continue;
    text out = error_line();
    put(&out, path);
    put(&out, " holds the value ");
    put_count(&out, bytes[i]);
    put(&out, ", but the input's values go from 0 to ");
    put_count(&out, (uint64_t)tensor->quant_max);
    put(&out, "; quantize it with the scale and zero point that --info prints");
    return end_line(&out, EXIT_USAGE);
  }
  return 0;
}

/* Like mkdir -p. */
static int make_folder(const char* path) {
  char part[PATH_MAX];
  const size_t length = strlen(path);
  if (length == 0 || length >= sizeof part - 32)
    return fail(EXIT_USAGE, "-o takes the path of a folder, but got ", length ? path : "nothing",
                "");
  for (size_t i = 1; i <= length; ++i) {
    if (path[i] != '/' && path[i] != 0) continue;
    memcpy(part, path, i);
    part[i] = 0;
    if (mkdir(part, 0777) && errno != EEXIST)
      return fail_errno(EXIT_DEVICE, "cannot make the folder ", part);
  }
  return 0;
}

/* OUTDIR/output<index>.bin, with ".part" while it is being written: a run that is killed leaves no
 * file that looks whole. */
static void output_path(char path[PATH_MAX], const char* folder, int32_t index,
                        const char* suffix) {
  char digits[12];
  char* first = digits + sizeof digits - 1;
  *first = 0;
  do {
    *--first = (char)('0' + index % 10);
    index /= 10;
  } while (index);
  strcpy(path, folder);
  strcat(path, "/output");
  strcat(path, first);
  strcat(path, ".bin");
  strcat(path, suffix);
}

static int run_records(const char* const* paths, const int* in, const char* folder, const int* out,
                       uint64_t records, int threads) {
  const haqnas_model* model = &HAQNAS_MODEL;
  buffers memory = {.threads = threads};
  int failure = allocate_buffers(&memory);
  for (uint64_t record = 0; record < records && !failure; ++record) {
    for (int32_t i = 0; i < model->input_count && !failure; ++i)
      failure = read_input(paths[i], in[i], i, memory.inputs[i]);
    if (!failure) failure = run_once(&memory);
    for (int32_t o = 0; o < model->output_count && !failure; ++o)
      if (write_all(out[o], memory.outputs[o], model->outputs[o].size_bytes))
        failure = fail_errno(EXIT_DEVICE, "cannot write into ", folder);
  }
  release_buffers(&memory);
  return failure;
}

static int open_outputs(const char* folder, int* out) {
  char part[PATH_MAX];
  for (int32_t o = 0; o < HAQNAS_MODEL.output_count; ++o) {
    output_path(part, folder, o, ".part");
    out[o] = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (out[o] < 0) return fail_errno(EXIT_DEVICE, "cannot write ", part);
  }
  return 0;
}

/* Gives the outputs their names, or after a failure removes what was written of them. */
static int finish_outputs(const char* folder, const int* out, int failure) {
  char part[PATH_MAX], whole[PATH_MAX];
  for (int32_t o = 0; o < HAQNAS_MODEL.output_count && out[o] > 0; ++o) {
    output_path(part, folder, o, ".part");
    output_path(whole, folder, o, "");
    if (close(out[o]) && !failure) failure = fail_errno(EXIT_DEVICE, "cannot write ", part);
    if (failure)
      unlink(part);
    else if (rename(part, whole))
      failure = fail_errno(EXIT_DEVICE, "cannot write ", whole);
  }
  return failure;
}

int run_files(const char* const* paths, const char* folder, int threads) {
  const haqnas_model* model = &HAQNAS_MODEL;
  uint64_t records = 0;
  int failure = check_cpu();
  if (failure) return failure;
  int* in = calloc((size_t)model->input_count + 1, sizeof *in);
  int* out = calloc((size_t)model->output_count + 1, sizeof *out);
  if (!in || !out) failure = fail(EXIT_DEVICE, "not enough memory", "", "");
  for (int32_t i = 0; i < model->input_count && !failure; ++i)
    failure = open_input(paths[i], i, &in[i], &records);
  if (!failure) failure = make_folder(folder);
  if (!failure) failure = open_outputs(folder, out);
  if (!failure) failure = run_records(paths, in, folder, out, records, threads);
  if (out) failure = finish_outputs(folder, out, failure);
  free(in);
  free(out);
  return failure;
}
