"""CUDA C++ that `synth` writes: rows in registers, 16-byte accesses, shuffles."""
