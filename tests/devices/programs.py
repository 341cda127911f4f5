"""A static C program that behaves as its first argument says, for devices to run."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from haqnas.devices.local import read_host_cpu

WAIT_S = 60.0

SOURCE = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int copy(void) {
  char text[64] = "";
  FILE* in = fopen("a/in.bin", "rb");
  if (!in) return 9;
  const size_t count = fread(text, 1, sizeof text, in);
  mkdir("out", 0777);
  FILE* out = fopen("out/x.bin", "wb");
  fwrite(text, 1, count, out);
  return fclose(out);
}

static int print_cores(void) {
  cpu_set_t cores;
  sched_getaffinity(0, sizeof cores, &cores);
  for (int core = 0; core < CPU_SETSIZE; ++core)
    if (CPU_ISSET(core, &cores)) printf("%d ", core);
  return 0;
}

static int fill(const char* path) {
  usleep(200000); /* until its parent has set the limits */
  FILE* file = fopen(path, "wb");
  for (int i = 0; file && i < 1 << 20; ++i) fputc('x', file);
  if (file && !fclose(file)) return 0;
  fprintf(stderr, "cannot write: %s\n", strerror(errno));
  return 4;
}

int main(int count, char** words) {
  const char* word = count > 1 ? words[1] : "";
  if (!strcmp(word, "copy")) return copy();
  if (!strcmp(word, "cores")) return print_cores();
  if (!strcmp(word, "fill")) return fill(words[2]);
  if (!strcmp(word, "trap")) __builtin_trap();
  if (!strcmp(word, "crash")) abort();
  if (!strcmp(word, "fail")) { fputs("wrong input\n", stderr); return 5; }
  if (!strcmp(word, "garbage")) { fwrite("\xff\x00@\n@ end\n", 1, 9, stdout); return 0; }
  if (!strcmp(word, "stdin")) { char byte; printf("%d", (int)read(0, &byte, 1)); return 0; }
  if (!strcmp(word, "leave-child") && fork()) return 0;
  if (!strcmp(word, "hang") || !strcmp(word, "leave-child")) { fputs("waiting\n", stderr); sleep(300); }
  if (!strcmp(word, "--bench")) puts("{\"times_ns\": [4000, 1000, 2000, 3000]}");
  return 0;
}
"""


@pytest.fixture(scope="session")
def actor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program for this machine."""
    folder = tmp_path_factory.mktemp("actor")
    source, program = folder / "actor.c", folder / "actor"
    source.write_text(SOURCE)
    target = f"{read_host_cpu().arch}-linux-musl"
    command = [sys.executable, "-m", "ziglang", "cc", "-target", target, "-O2", "-s", "-static"]
    subprocess.run([*command, str(source), "-o", str(program)], check=True, capture_output=True)
    return program


def running(program: str) -> list[str]:
    """Command lines of processes that name `program`."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_text(errors="replace").replace("\0", " "))
        except OSError:
            continue
    return [line for line in lines if program in line]


def wait_until(is_true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not is_true():
        assert time.monotonic() < deadline, f"not within {WAIT_S} s: {what}"
        time.sleep(0.05)
