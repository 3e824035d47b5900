"""Helpers for 16-bit floating point: stored as such, computed in float32.

GCC 12 splits conversions between vectors of 16-bit and of 32-bit elements into halves, or into scalars where
they are float16, so full-width ones name the instruction.
"""

from __future__ import annotations

__all__ = ["HALVES"]

#: name -> (text, names of the helpers it calls)
HALVES: dict[str, tuple[str, tuple[str, ...]]] = {
    "widen": (
        """// bfloat16 bits to float32.
template <class V, class U, class H> inline V widen(H bits) {
#if defined(__AVX512F__) && !defined(__clang__)
    typedef short words __attribute__((vector_size(32)));
    typedef int wide __attribute__((vector_size(64)));
    if constexpr (sizeof(V) == 64)
        return (V)((U)__builtin_ia32_pmovzxwd512_mask((words)bits, wide{}, -1) << 16);
#endif
    return (V)(__builtin_convertvector(bits, U) << 16);
}""",
        (),
    ),
    "widen_one": (
        """inline float widen(unsigned short bits) {
    const unsigned wide = static_cast<unsigned>(bits) << 16;
    float x;
    __builtin_memcpy(&x, &wide, sizeof x);
    return x;
}""",
        (),
    ),
    "round_bits": (
        """// float32 rounded to what bfloat16 can hold, to nearest even; NaN stays NaN.
template <class U, class V> inline U round_bits(V x) {
    const U bits = (U)x;
    const U even = bits + 0x7fff + ((bits >> 16) & 1);
    return (x != x ? bits | 0x400000 : even) & 0xffff0000u;
}""",
        (),
    ),
    "narrow": (
        """// float32 to bfloat16 bits.
template <class H, class U, class V> inline H narrow(V x) {
    const U bits = round_bits<U>(x) >> 16;
#if defined(__AVX512F__) && !defined(__clang__)
    typedef short words __attribute__((vector_size(32)));
    typedef int wide __attribute__((vector_size(64)));
    if constexpr (sizeof(V) == 64) return (H)__builtin_ia32_pmovdw512_mask((wide)bits, words{}, -1);
#endif
    return __builtin_convertvector(bits, H);
}""",
        ("round_bits",),
    ),
    "narrow_one": (
        """inline unsigned short narrow(float x) {
    unsigned bits;
    __builtin_memcpy(&bits, &x, sizeof bits);
    return static_cast<unsigned short>(x != x ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}""",
        (),
    ),
    "widen_half": (
        """// float16 to float32.
template <class V, class H> inline V widen_half(H x) {
#if defined(__AVX512F__) && !defined(__clang__)
    typedef short words __attribute__((vector_size(32)));
    if constexpr (sizeof(V) == 64) return (V)__builtin_ia32_vcvtph2ps512_mask((words)x, V{}, -1, 4);
#endif
#if defined(__F16C__) && !defined(__clang__)
    typedef short eight __attribute__((vector_size(16)));
    if constexpr (sizeof(V) == 32) return (V)__builtin_ia32_vcvtph2ps256((eight)x);
#endif
    return __builtin_convertvector(x, V);
}""",
        (),
    ),
    "narrow_half": (
        """// float32 to float16, to nearest even.
template <class H, class V> inline H narrow_half(V x) {
#if defined(__AVX512F__) && !defined(__clang__)
    typedef short words __attribute__((vector_size(32)));
    if constexpr (sizeof(V) == 64) return (H)__builtin_ia32_vcvtps2ph512_mask(x, 0, words{}, -1);
#endif
#if defined(__F16C__) && !defined(__clang__)
    if constexpr (sizeof(V) == 32) return (H)__builtin_ia32_vcvtps2ph256(x, 0);
#endif
    return __builtin_convertvector(x, H);
}""",
        (),
    ),
}
