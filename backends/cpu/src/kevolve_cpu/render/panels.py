"""The helpers of generated matrix products: storage, packing and the register-blocked kernel."""

from __future__ import annotations

__all__ = ["PRODUCTS"]

#: name -> (text, names of the helpers it calls)
PRODUCTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "panels": (
        """// Working storage that starts at a cache line.
template <class T> struct Panels {
    void *const block;
    T *const data;
    explicit Panels(long n)
        : block(__builtin_malloc(n * sizeof(T) + 64)),
          data(reinterpret_cast<T *>((reinterpret_cast<unsigned long>(block) + 63) & ~63UL)) {}
    ~Panels() { __builtin_free(block); }
    Panels(const Panels &) = delete;
};""",
        (),
    ),
    "pack": (
        """// A panel to[k][i] of W vectors from[i * across + k * along]; those from `have` on are zeros.
template <int W, class T>
inline void pack(const T *from, long across, long along, long have, long depth, T *to) {
    if (have >= W) {
        for (long k = 0; k < depth; ++k, from += along, to += W)
            for (int i = 0; i < W; ++i) to[i] = from[i * across];
        return;
    }
    for (long k = 0; k < depth; ++k, from += along, to += W)
        for (int i = 0; i < W; ++i) to[i] = i < have ? from[i * across] : T(0);
}""",
        (),
    ),
    "multiply": (
        """// c[i][j] = the sum over k of a[k][i] * b[k][j], added to what is there if `add`: R rows of W
// vectors, of which only `rows` and `columns` exist. The sums are in registers.
template <class V, int R, int W, class T>
inline void multiply(const T *__restrict a, const T *__restrict b, long depth, T *__restrict c,
                     long stride, long rows, long columns, bool add) {
    constexpr int lanes = sizeof(V) / sizeof(T);
    V sum[R][W] = {};
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < W; ++j) __builtin_prefetch(c + i * stride + j * lanes, 1);
    for (long k = 0; k < depth; ++k, a += R, b += W * lanes) {
        V right[W];
#pragma GCC unroll 4
        for (int j = 0; j < W; ++j) right[j] = load<V>(b + j * lanes);
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
            for (int j = 0; j < W; ++j) sum[i][j] += a[i] * right[j];
    }
    if (rows >= R && columns >= W * lanes) {
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i, c += stride)
#pragma GCC unroll 4
            for (int j = 0; j < W; ++j)
                store(c + j * lanes, add ? load<V>(c + j * lanes) + sum[i][j] : sum[i][j]);
        return;
    }
    T part[R][W * lanes];
    __builtin_memcpy(part, sum, sizeof part);
    for (long i = 0; i < rows && i < R; ++i)
        for (long j = 0; j < columns && j < W * lanes; ++j)
            c[i * stride + j] = add ? c[i * stride + j] + part[i][j] : part[i][j];
}""",
        ("load", "store"),
    ),
}
