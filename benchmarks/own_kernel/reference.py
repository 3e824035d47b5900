"""What a user's model does between two layers: gated, added to the residual, normalised by row."""

import torch
import torch.nn.functional as F


def gated_residual_norm(x, gate, residual, weight):
    h = residual + x * F.silu(gate)
    return h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6) * weight, h
