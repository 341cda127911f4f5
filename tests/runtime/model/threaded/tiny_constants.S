/* tiny_constants, sha256 bfd9f711c2df46a75f3d16554db189188c9cabff2ed7bcb97bbe57b8ac6db278 */
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
