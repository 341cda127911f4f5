// Reads images of 8x8 pixels, 0 to 16, as 64 numbers each, and prints the digit that each shows.
#include <algorithm>
#include <array>
#include <cstdint>
#include <iostream>

#include "digits.h"

namespace {

using Image = std::array<float, DIGITS_INPUT0_ELEMENTS>;

bool read(std::istream& stream, Image& image) {
  for (float& pixel : image) {
    if (!(stream >> pixel)) return false;
    pixel /= 16;  // as examples/digits.py trains on
  }
  return true;
}

/// Index of the greatest output, or -1 with a message on stderr.
long classify(const Image& image) {
  alignas(DIGITS_WORKSPACE_ALIGNMENT) static unsigned char workspace[DIGITS_WORKSPACE_BYTES];
  std::array<std::uint8_t, DIGITS_INPUT0_ELEMENTS> pixels;
  std::array<float, DIGITS_OUTPUT0_ELEMENTS> logits;
  const void* inputs[] = {pixels.data()};
  void* outputs[] = {logits.data()};
  digits_quantize_input0(image.data(), pixels.data(), pixels.size());
  const int status = digits_run(inputs, outputs, workspace);
  if (status != DIGITS_OK) {
    std::cerr << digits_error_message(status) << '\n';
    return -1;
  }
  return std::max_element(logits.begin(), logits.end()) - logits.begin();
}

}  // namespace

int main() {
  Image image;
  while (read(std::cin, image)) {
    const long digit = classify(image);
    if (digit < 0) return 1;
    std::cout << digit << '\n';
  }
}
