"""Evolve fast, verified kernels for any accelerator."""
