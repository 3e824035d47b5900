"""The helper functions a generated file may need. A file carries only those it uses.

Every helper is a short C++17 template over GCC/Clang vector types (``f32x16``: sixteen float32 lanes) that
the compiler maps to whatever the target has; ``<immintrin.h>`` would triple the compile time of a candidate.
"""

from __future__ import annotations

import re

from attrs import define, field

from kevolve_cpu.render.halves import HALVES
from kevolve_cpu.render.kinds import BITS, SCALAR
from kevolve_cpu.render.panels import PRODUCTS
from kevolve_cpu.render.shuffles import SHUFFLES
from kevolve_cpu.render.vecmath import MATH

__all__ = ["HELPER_NAMES", "Preamble"]

#: name -> (text, names of the helpers it calls)
HELPERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "load": (
        """template <class V> inline V load(const void *p) {
    V v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}""",
        (),
    ),
    "store": (
        """template <class V> inline void store(void *p, V v) { __builtin_memcpy(p, &v, sizeof v); }""",
        (),
    ),
    "lanes": (
        """// Which lanes of a vector are in range: all of them, or the first N at the end of a row.
struct All {};
template <int N> struct First {};""",
        (),
    ),
    "load_lanes": (
        """template <class V> inline V load(const void *p, All) { return load<V>(p); }
template <class V, int N> inline V load(const void *p, First<N>) {
    V v{};
    __builtin_memcpy(&v, p, N * sizeof v[0]);
    return v;
}""",
        ("lanes", "load"),
    ),
    "store_lanes": (
        """template <class V> inline void store(void *p, V v, All) { store(p, v); }
template <class V, int N>
inline void store(void *p, V v, First<N>) { __builtin_memcpy(p, &v, N * sizeof v[0]); }""",
        ("lanes", "store"),
    ),
    "rounded": (
        """// A product as it is in memory: never one operation with the addition after it. GCC fuses across
// statements, but not across this; Clang only within an expression. (GCC 12 loses lanes of
// __builtin_assoc_barrier where it vectorizes a loop of two.)
template <class V> inline V rounded(V x) {
#ifndef __clang__
#if defined(__AVX512F__)
    [[maybe_unused]] constexpr unsigned widest = 64;
#elif defined(__AVX__)
    [[maybe_unused]] constexpr unsigned widest = 32;
#else
    [[maybe_unused]] constexpr unsigned widest = 16;
#endif
#if defined(__x86_64__)
    if constexpr (sizeof x <= widest) { asm("" : "+x"(x)); return x; }
#elif defined(__aarch64__)
    if constexpr (sizeof x <= widest) { asm("" : "+w"(x)); return x; }
#endif
    asm("" : "+m"(x));
#endif
    return x;
}""",
        (),
    ),
    "stream": (
        """// Store past the caches; p is aligned to the vector. The barrier after a parallel loop ends it.
template <class V> inline void stream(void *p, V v) {
#if defined(__AVX512F__) && !defined(__clang__)
    if constexpr (sizeof v == 64) {
        typedef float bits __attribute__((vector_size(64)));
        __builtin_ia32_movntps512(static_cast<float *>(p), (bits)v);
        return;
    }
#endif
#if defined(__AVX__) && !defined(__clang__)
    if constexpr (sizeof v == 32) {
        typedef float bits __attribute__((vector_size(32)));
        __builtin_ia32_movntps256(static_cast<float *>(p), (bits)v);
        return;
    }
#endif
#if defined(__clang__)
    __builtin_nontemporal_store(v, static_cast<V *>(p));
#else
    __builtin_memcpy(p, &v, sizeof v);
#endif
}""",
        (),
    ),
    "stream_lanes": (
        """template <class V> inline void stream(void *p, V v, All) { stream(p, v); }
template <class V, int N>
inline void stream(void *p, V v, First<N>) { __builtin_memcpy(p, &v, N * sizeof v[0]); }""",
        ("lanes", "stream"),
    ),
    "splat": ("template <class V, class T> inline V splat(T x) { return x - V{}; }", ()),
    "iota": (
        """template <class V> inline V iota() {
    V v{};
    for (unsigned i = 0; i < sizeof v / sizeof v[0]; ++i) v[i] = i;
    return v;
}""",
        (),
    ),
    "keep": (
        """// x in the lanes in range, `other` in the rest. A mask's type is the compiler's own.
template <class V, class W> inline V keep(V x, W, All) { return x; }
template <class V, class W, int N> inline V keep(V x, W other, First<N>) {
    for (unsigned i = N; i < sizeof x / sizeof x[0]; ++i) x[i] = other[i];
    return x;
}""",
        ("lanes",),
    ),
    "each": (
        """// f of every lane; through an array, which the compiler vectorises where it can.
template <class V, class F> inline V each(V v, F f) {
    decltype(f(v[0])) x[sizeof v / sizeof v[0]];
    __builtin_memcpy(x, &v, sizeof v);
    for (auto &lane : x) lane = f(lane);
    __builtin_memcpy(&v, x, sizeof v);
    return v;
}
template <class V, class F> inline V each(V a, V b, F f) {
    for (unsigned i = 0; i < sizeof a / sizeof a[0]; ++i) a[i] = f(a[i], b[i]);
    return a;
}""",
        (),
    ),
    "gather": (
        """template <class V, class T, class I> inline V gather(const T *p, I at) {
    V v;
    for (unsigned i = 0; i < sizeof v / sizeof v[0]; ++i) v[i] = p[at[i]];
    return v;
}""",
        (),
    ),
    "gather_lanes": (
        """template <class V, class T, class I>
inline V gather(const T *p, I at, All) { return gather<V>(p, at); }
template <class V, class T, class I, int N> inline V gather(const T *p, I at, First<N>) {
    V v{};
    for (int i = 0; i < N; ++i) v[i] = p[at[i]];
    return v;
}""",
        ("lanes", "gather"),
    ),
    "gather_masked": (
        """template <class V, class T, class I, class M>
inline V gather_masked(const T *p, I at, M mask, V other) {
    for (unsigned i = 0; i < sizeof other / sizeof other[0]; ++i)
        if (mask[i]) other[i] = p[at[i]];
    return other;
}""",
        (),
    ),
    "scatter": (
        """template <class V, class T, class I, class M> inline void scatter(T *p, I at, V v, M mask) {
    for (unsigned i = 0; i < sizeof v / sizeof v[0]; ++i)
        if (mask[i]) p[at[i]] = v[i];
}""",
        (),
    ),
    "scatter_add": (
        """template <class V, class T, class I, class M> inline void scatter_add(T *p, I at, V v, M mask) {
    for (unsigned i = 0; i < sizeof v / sizeof v[0]; ++i)
        if (mask[i]) atomic_add(p + at[i], T(v[i]));
}""",
        ("atomic_add",),
    ),
    "scatter_update": (
        """template <class V, class T, class I, class M, class F>
inline void scatter_update(T *p, I at, V v, M mask, F f) {
    for (unsigned i = 0; i < sizeof v / sizeof v[0]; ++i)
        if (mask[i]) atomic_update(p + at[i], T(v[i]), f);
}""",
        ("atomic_update",),
    ),
    "fold": (
        """// All lanes of v combined pairwise.
template <class V, class F> inline auto fold(V v, F f) {
    using T = decltype(v[0] + v[0]);
    constexpr int lanes = sizeof v / sizeof(T);
    if constexpr (lanes == 2) {
        return f(T(v[0]), T(v[1]));
    } else {
        typedef T Half __attribute__((vector_size(lanes / 2 * sizeof(T))));
        Half half[2];
        __builtin_memcpy(half, &v, sizeof v);
        return fold(f(half[0], half[1]), f);
    }
}""",
        (),
    ),
    "maximum": (
        "template <class T> inline T maximum(T a, T b) { return (a > b) | (a != a) ? a : b; }  // NaN wins",
        (),
    ),
    "greater": (
        """// The larger of two, NaN or not where one is NaN.
template <class V> inline V greater(V a, V b) {
#if defined(__AVX512F__) && !defined(__clang__)
    if constexpr (sizeof a == 64 && sizeof a[0] == 4) return __builtin_ia32_maxps512_mask(a, b, a, -1, 4);
#endif
    return a > b ? a : b;
}""",
        (),
    ),
    "minimum": (
        "template <class T> inline T minimum(T a, T b) { return (a < b) | (a != a) ? a : b; }  // NaN wins",
        (),
    ),
    "plus": ("struct Plus { template <class T> T operator()(T a, T b) const { return a + b; } };", ()),
    "times": ("struct Times { template <class T> T operator()(T a, T b) const { return a * b; } };", ()),
    "larger": (
        "struct Larger { template <class T> T operator()(T a, T b) const { return maximum(a, b); } };",
        ("maximum",),
    ),
    "smaller": (
        "struct Smaller { template <class T> T operator()(T a, T b) const { return minimum(a, b); } };",
        ("minimum",),
    ),
    "or": ("struct Or { template <class T> T operator()(T a, T b) const { return a | b; } };", ()),
    "and": ("struct And { template <class T> T operator()(T a, T b) const { return a & b; } };", ()),
    "first_max": (
        """// Keep the first extremum and its position; NaN counts as the extremum.
template <class V, class I> inline void first_max(V &best, I &at, V x, I position) {
    const auto better = (x > best) | ((x != x) & (best == best));
    const auto tie = (x == best) | ((x != x) & (best != best));
    at = better | (tie & (position < at)) ? position : at;
    best = better ? x : best;
}""",
        (),
    ),
    "first_min": (
        """// Keep the first extremum and its position; NaN counts as the extremum.
template <class V, class I> inline void first_min(V &best, I &at, V x, I position) {
    const auto better = (x < best) | ((x != x) & (best == best));
    const auto tie = (x == best) | ((x != x) & (best != best));
    at = better | (tie & (position < at)) ? position : at;
    best = better ? x : best;
}""",
        (),
    ),
    "divide": (
        """// Integer division that cannot trap in lanes out of range.
template <class T> inline T divide(T a, T b) { return b == 0 ? T(0) : b == T(-1) ? T(0 - a) : T(a / b); }""",
        (),
    ),
    "floordiv": (
        """template <class T> inline T floordiv(T a, T b) {
    const T q = divide(a, b);
    return T(q * b) != a && (a < 0) != (b < 0) ? T(q - 1) : q;
}""",
        ("divide",),
    ),
    "remainder": (
        "template <class T> inline T remainder(T a, T b) { return T(a - floordiv(a, b) * b); }",
        ("floordiv",),
    ),
    "modulo": (
        "template <class T> inline T modulo(T a, T b) { return T(a - divide(a, b) * b); }",
        ("divide",),
    ),
    "float_remainder": (
        """inline double float_remainder(double a, double b) {
    const double m = __builtin_fmod(a, b);
    return m != 0 && (m < 0) != (b < 0) ? m + b : m;
}
inline float float_remainder(float a, float b) {
    const float m = __builtin_fmodf(a, b);
    return m != 0 && (m < 0) != (b < 0) ? m + b : m;
}""",
        (),
    ),
    "float_floordiv": (
        """template <class T> inline T float_floordiv(T a, T b) {
    if (b == 0) return a / b;
    const T m = sizeof(T) == 4 ? T(__builtin_fmodf(a, b)) : T(__builtin_fmod(a, b));
    T q = (a - m) / b;
    if (m != 0 && (m < 0) != (b < 0)) q -= 1;
    if (q == 0) return __builtin_copysign(T(0), a / b);
    const T down = __builtin_floor(q);
    return q - down > T(0.5) ? down + 1 : down;
}""",
        (),
    ),
    "integer_power": (
        """template <class T> inline T integer_power(T a, T b) {
    if (b < 0) return a == 1 ? T(1) : a == T(-1) ? T(b & 1 ? -1 : 1) : T(0);
    T r = 1;
    for (; b; b = T(b >> 1), a = T(a * a))
        if (b & 1) r = T(r * a);
    return r;
}""",
        (),
    ),
    "atomic_add": (
        """template <class T> inline void atomic_add(T *p, T x) {
#pragma omp atomic
    *p += x;
}""",
        (),
    ),
    "atomic_update": (
        """template <class T, class F> inline void atomic_update(T *p, T x, F f) {
    T seen;
    __atomic_load(p, &seen, __ATOMIC_RELAXED);
    for (T next = f(seen, x); !__atomic_compare_exchange(p, &seen, &next, true, __ATOMIC_RELAXED,
    __ATOMIC_RELAXED);) next = f(seen, x);
}""",
        (),
    ),
    "search_left": (
        """// Insertion positions of N values in ascending p[0, n): all searches go down together, one
// level at a time, so that their cache misses overlap. NaN goes last.
template <int N, class T> inline void search_left(const T *p, long n, const T *x, long *at) {
    for (int i = 0; i < N; ++i) at[i] = 0;
    if (n == 0) return;
    while (n > 1) {
        const long half = n / 2;
        for (int i = 0; i < N; ++i) at[i] += p[at[i] + half - 1] >= x[i] ? 0 : half;
        n -= half;
    }
    for (int i = 0; i < N; ++i) at[i] += p[at[i]] >= x[i] ? 0 : 1;
}""",
        (),
    ),
    "search_left_lanes": (
        """template <class I, class T, class V> inline I search_left(const T *p, long n, V values) {
    constexpr int lanes = sizeof values / sizeof values[0];
    T x[lanes];
    long at[lanes];
    store(x, values);
    search_left<lanes>(p, n, x, at);
    return load<I>(at);
}""",
        ("search_left", "load", "store"),
    ),
    "search_left_one": (
        """template <class T> inline long search_left(const T *p, long n, T x) {
    long at;
    search_left<1>(p, n, &x, &at);
    return at;
}""",
        ("search_left",),
    ),
    "count_left_lanes": (
        """// Insertion positions by comparing with every element of p[0, n): for a few elements only.
template <class I, class T, class V> inline I count_left(const T *p, long n, V values) {
    decltype(values < values) not_before{};
    for (long j = 0; j < n; ++j) not_before += p[j] >= values;
    return __builtin_convertvector(not_before, I) + n;
}""",
        (),
    ),
    "count_left_one": (
        """// Insertion position by comparing with every element of p[0, n): for a few elements only.
template <class T> inline long count_left(const T *p, long n, T x) {
    long not_before = 0;
    for (long j = 0; j < n; ++j) not_before += p[j] >= x;
    return n - not_before;
}""",
        (),
    ),
    "search_right": (
        """// Insertion positions of N values in ascending p[0, n): all searches go down together, one
// level at a time, so that their cache misses overlap. NaN goes last.
template <int N, class T> inline void search_right(const T *p, long n, const T *x, long *at) {
    for (int i = 0; i < N; ++i) at[i] = 0;
    if (n == 0) return;
    while (n > 1) {
        const long half = n / 2;
        for (int i = 0; i < N; ++i) at[i] += p[at[i] + half - 1] > x[i] ? 0 : half;
        n -= half;
    }
    for (int i = 0; i < N; ++i) at[i] += p[at[i]] > x[i] ? 0 : 1;
}""",
        (),
    ),
    "search_right_lanes": (
        """template <class I, class T, class V> inline I search_right(const T *p, long n, V values) {
    constexpr int lanes = sizeof values / sizeof values[0];
    T x[lanes];
    long at[lanes];
    store(x, values);
    search_right<lanes>(p, n, x, at);
    return load<I>(at);
}""",
        ("search_right", "load", "store"),
    ),
    "search_right_one": (
        """template <class T> inline long search_right(const T *p, long n, T x) {
    long at;
    search_right<1>(p, n, &x, &at);
    return at;
}""",
        ("search_right",),
    ),
    "count_right_lanes": (
        """// Insertion positions by comparing with every element of p[0, n): for a few elements only.
template <class I, class T, class V> inline I count_right(const T *p, long n, V values) {
    decltype(values < values) not_before{};
    for (long j = 0; j < n; ++j) not_before += p[j] > values;
    return __builtin_convertvector(not_before, I) + n;
}""",
        (),
    ),
    "count_right_one": (
        """// Insertion position by comparing with every element of p[0, n): for a few elements only.
template <class T> inline long count_right(const T *p, long n, T x) {
    long not_before = 0;
    for (long j = 0; j < n; ++j) not_before += p[j] > x;
    return n - not_before;
}""",
        (),
    ),
    "scratch": (
        """// Working storage that is too large for the stack.
template <class T> struct Scratch {
    T *const data;
    explicit Scratch(long n) : data(static_cast<T *>(__builtin_malloc(n * sizeof(T) + 64))) {}
    ~Scratch() { __builtin_free(data); }
    Scratch(const Scratch &) = delete;
    T &operator[](long i) const { return data[i]; }
    T *operator+(long i) const { return data + i; }
};""",
        (),
    ),
    **HALVES,
    **MATH,
    **PRODUCTS,
    **SHUFFLES,
}

#: functions and types that helpers define: no buffer or value may take their names
HELPER_NAMES = frozenset(
    word for text, _ in HELPERS.values() for word in re.findall(r"(?<=struct )\w+|\w+(?=[(<])", text)
)


@define
class Preamble:
    """Collects the vector types and helpers that one file uses and prints them in a fixed order."""

    _types: set[tuple[str, int]] = field(factory=set)
    _helpers: set[str] = field(factory=set)

    def vector(self, kind: str, lanes: int) -> str:
        """The C++ name of ``lanes`` lanes of ``kind`` (``u32`` and the like included)."""
        self._types.add((kind, lanes))
        return f"{kind}x{lanes}"

    def need(self, helper: str) -> None:
        if helper not in self._helpers:
            for other in HELPERS[helper][1]:
                self.need(other)
            self._helpers.add(helper)

    def text(self) -> str:
        lines = []
        for kind, lanes in sorted(self._types):
            scalar = {**SCALAR, "u32": "unsigned", "u64": "unsigned long"}[kind]
            size = {**BITS, "u32": 32, "u64": 64}[kind] // 8 * lanes
            lines.append(f"typedef {scalar} {kind}x{lanes} __attribute__((vector_size({size})));")
        parts = ["\n".join(lines)] if lines else []
        ordered: list[str] = []
        for name in HELPERS:
            if name in self._helpers:
                _after_needs(name, ordered)
        parts += [HELPERS[name][0] for name in ordered]
        return "\n\n".join(parts)


def _after_needs(name: str, ordered: list[str]) -> None:
    for other in HELPERS[name][1]:
        _after_needs(other, ordered)
    if name not in ordered:
        ordered.append(name)
