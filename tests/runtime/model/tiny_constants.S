/* tiny_constants, sha256 9e2c2b639a02cb31a6278bb15bd7047df38bc0126c4bbb7c4ce7661c9827d84a */
  .section .rodata.tiny_constants, "a", @progbits
  .balign 64
  .incbin "layers.bin"
  .globl tiny_constants
  .hidden tiny_constants
  .type tiny_constants, @object
tiny_constants:
  .incbin "constants.bin"
  .size tiny_constants, . - tiny_constants
  .byte 0
  .section .note.GNU-stack, "", @progbits
