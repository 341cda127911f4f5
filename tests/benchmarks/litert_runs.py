"""LiteRT under the emulator: `litert_runs.py MODEL.tflite RUNS`, run by an Arm Python that has only what this needs."""

import sys

from ai_edge_litert.interpreter import Interpreter

interpreter = Interpreter(sys.argv[1], num_threads=1)
interpreter.allocate_tensors()
for _ in range(int(sys.argv[2])):
    interpreter.invoke()
