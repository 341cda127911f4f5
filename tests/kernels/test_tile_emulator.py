"""The emulator of tile instructions computes what the manual says, and ends programs that break its rules."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels.tile_emulator import TILE_FEATURES, host_features, tile_emulator

# A tile of 3 x 8 unsigned bytes by one of 2 x 20 signed ones: 3 x 5 sums; rows lie apart in memory. Tiles are allowed
# for two functions, not by an option: zig would build its libc once more for that.
PROGRAM = r"""
#include <immintrin.h>
#include <stdio.h>
#include <string.h>

#define ON_TILES __attribute__((target("amx-tile,amx-int8")))

static unsigned char config[64] __attribute__((aligned(64)));
static unsigned char a[3][16];
static signed char b[2][32];
static int start[3][8], sums[4][8];

ON_TILES static void configure(void) {
  config[0] = 1;
  config[16] = 20, config[48] = 3;
  config[18] = 8, config[49] = 3;
  config[20] = 20, config[50] = 2;
  config[30] = 64, config[55] = 16;
  __CONFIGURE__;
  _tile_loadconfig(config);
}

ON_TILES int main(void) {
  for (int i = 0; i < 48; ++i) a[i / 16][i % 16] = (unsigned char)(255 - 5 * i);
  for (int i = 0; i < 64; ++i) b[i / 32][i % 32] = (signed char)(i % 2 ? -128 + i : 127 - 3 * i);
  for (int i = 0; i < 24; ++i) start[i / 8][i % 8] = i * 1000000, sums[i / 8][i % 8] = -7;
  sums[3][0] = -7;
  configure();
  unsigned char stored[64];
  _tile_storeconfig(stored);
  if (memcmp(stored, config, 64)) return 1;
  _tile_loadd(0, start, 32);
  _tile_loadd(1, a, 16);
  _tile_stream_loadd(2, b, 32);
  __TILES__;
  _tile_stored(0, sums, 32);
  for (int m = 0; m < 3; ++m)
    for (int n = 0; n < 8; ++n) {
      int sum = n < 5 ? start[m][n] : -7;
      for (int k = 0; n < 5 && k < 8; ++k) sum += a[m][k] * b[k / 4][4 * n + k % 4];
      if (sums[m][n] != sum) return 2;
    }
  if (sums[3][0] != -7) return 3;
  _tile_zero(0);
  _tile_stored(0, sums, 32);
  if (sums[0][0] || sums[2][4] || sums[0][5] != -7) return 4;
  _tile_release();
  __AFTER__;
  puts("good");
  return 0;
}
"""
PRODUCT = "_tile_dpbusd(0, 1, 2)"


@pytest.fixture(autouse=True)
def _needs_emulation() -> None:
    if host_features() >= TILE_FEATURES:
        pytest.skip("this CPU executes tile instructions itself")


def run_emulated(
    folder: Path, configuring: str = "", tiles: str = PRODUCT, after: str = ""
) -> subprocess.CompletedProcess:
    source = folder / "program.c"
    text = (
        PROGRAM.replace("__CONFIGURE__", configuring).replace("__TILES__", tiles).replace("__AFTER__", after)
    )
    source.write_text(text)
    flags = ["-O2", "-target", "x86_64-linux-musl", "-static"]
    command = [sys.executable, "-m", "ziglang", "cc", *flags, str(source), "-o", str(folder / "program")]
    subprocess.run(command, check=True, timeout=600)
    return subprocess.run(
        [tile_emulator(), folder / "program"], capture_output=True, text=True, timeout=60, check=False
    )


def test_a_product_of_tiles_is_what_c_computes(tmp_path):
    done = run_emulated(tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "good\n", "")


def test_the_programs_exit_code_is_passed_on(tmp_path):
    assert run_emulated(tmp_path, tiles="_tile_zero(0)").returncode == 2


@pytest.mark.parametrize(
    ("configuring", "tiles", "after", "message"),
    [
        ("config[0] = 2", PRODUCT, "", "the only palette is 1"),
        ("config[5] = 1", PRODUCT, "", "reserved bytes"),
        ("config[17] = 1", PRODUCT, "", "at most 64 bytes"),
        ("config[55] = 17", PRODUCT, "", "at most 16 rows"),
        ("config[48] = 0", PRODUCT, "", "zero together"),
        ("config[49] = 2", PRODUCT, "", "rows of sums and of A"),
        ("config[20] = 16", PRODUCT, "", "columns of sums and of B"),
        ("config[18] = 12", PRODUCT, "", "columns of A and rows of B"),
        ("config[18] = 7", PRODUCT, "", "groups of four"),
        ("", "_tile_dpbusd(0, 1, 3)", "", "not configured"),
        ("", PRODUCT, "_tile_zero(0)", "no tiles are configured"),
        ("", "_tile_loadd(1, 4096, 16)", "", "memory that is not the program's"),
    ],
)
def test_what_the_manual_forbids_ends_the_program(configuring, tiles, after, message, tmp_path):
    done = run_emulated(tmp_path, configuring, tiles, after)
    assert done.returncode == 125
    assert message in done.stderr
    assert "good" not in done.stdout


def test_other_unknown_instructions_are_no_concern_of_it(tmp_path):
    done = run_emulated(tmp_path, after='__asm__ volatile("ud2")')
    assert done.returncode == 128 + 4
    assert "ended by signal 4" in done.stderr
