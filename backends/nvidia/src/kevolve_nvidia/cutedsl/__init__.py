"""Language ``cute``: candidates in NVIDIA's CuTe DSL, compiled ahead without a GPU, and what `synth` writes
in it. Importing this package imports no part of the DSL, which is an extra of this distribution."""
