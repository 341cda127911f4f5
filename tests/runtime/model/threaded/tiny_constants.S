/* tiny_constants, sha256 9ac2197d9258257b1ae8463e4214e4cd0a578bc1517f2415928b91be4283fc48 */
  .section .rodata.tiny_constants, "a", @progbits
  .balign 64
  .globl tiny_constants
  .hidden tiny_constants
  .type tiny_constants, @object
tiny_constants:
  .incbin "constants.bin"
  .size tiny_constants, . - tiny_constants
  .byte 0
  .section .note.GNU-stack, "", @progbits
