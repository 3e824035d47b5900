"""Helpers that move lanes within and between vectors."""

from __future__ import annotations

__all__ = ["SHUFFLES"]

#: name -> (text, names of the helpers it calls)
SHUFFLES: dict[str, tuple[str, tuple[str, ...]]] = {
    "pick": (
        """// Lanes of a and then b, by constant positions.
#ifdef __clang__
#define PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define PICK(a, b, ...) __builtin_shuffle(a, b, decltype(a < b){__VA_ARGS__})
#endif""",
        (),
    ),
    "widest": (
        """// Bytes of a register. Compilers shuffle what is wider lane by lane.
#if defined(__AVX512F__)
constexpr unsigned widest_register = 64;
#elif defined(__AVX2__)
constexpr unsigned widest_register = 32;
#else
constexpr unsigned widest_register = 16;
#endif""",
        (),
    ),
    "halves": (
        """// A vector as two of half its lanes.
template <class T> T lane_type(const T &);
template <class V> struct Halves {
    typedef decltype(lane_type(V{}[0])) Half __attribute__((vector_size(sizeof(V) / 2)));
    Half low, high;
};
template <class V> inline Halves<V> halves_of(V v) {
    Halves<V> h;
    __builtin_memcpy(&h, &v, sizeof v);
    return h;
}""",
        (),
    ),
    "last_lane": (
        """// The last lane in all lanes.
template <class V> inline V last_lane(V v) {
    constexpr int n = sizeof v / sizeof v[0];
#ifndef __clang__
    if constexpr (sizeof v <= widest_register) return __builtin_shuffle(v, decltype(v < v){} + (n - 1));
#endif
    return v[n - 1] - V{};
}""",
        ("widest",),
    ),
    "moved_up": (
        """// v moved up by some lanes, after the last ones of before.
template <int by, class V> inline V moved_up(V before, V v) {
    constexpr int n = sizeof v / sizeof v[0], at = n - by;
    if constexpr (sizeof v > widest_register) {
        const V both[2] = {before, v};
        V moved;
        __builtin_memcpy(&moved, reinterpret_cast<const char *>(both) + at * sizeof v[0], sizeof v);
        return moved;
    } else if constexpr (n == 2) {
        return PICK(before, v, at, at + 1);
    } else if constexpr (n == 4) {
        return PICK(before, v, at, at + 1, at + 2, at + 3);
    } else {
        static_assert(n == 8, "a scan in lanes of 64 bits");
        return PICK(before, v, at, at + 1, at + 2, at + 3, at + 4, at + 5, at + 6, at + 7);
    }
}""",
        ("pick", "widest"),
    ),
    "backwards": (
        """// The lanes from the last to the first.
template <class V> inline V backwards(V v) {
    constexpr int n = sizeof v / sizeof v[0];
    if constexpr (sizeof v > widest_register) {
        const auto h = halves_of(v);
        const Halves<V> turned{backwards(h.high), backwards(h.low)};
        __builtin_memcpy(&v, &turned, sizeof v);
        return v;
    } else if constexpr (n == 2) {
        return PICK(v, v, 1, 0);
    } else if constexpr (n == 4) {
        return PICK(v, v, 3, 2, 1, 0);
    } else {
        static_assert(n == 8, "a scan in lanes of 64 bits");
        return PICK(v, v, 7, 6, 5, 4, 3, 2, 1, 0);
    }
}""",
        ("pick", "widest", "halves"),
    ),
    "prefixes": (
        """// The first 1, 2, 3, ... lanes combined, in steps of 1, 2 and 4 lanes; start changes nothing.
template <class V, class F> inline V prefixes(V v, V start, F f) {
    constexpr int n = sizeof v / sizeof v[0];
    if constexpr (sizeof v > widest_register) {
        auto h = halves_of(v);
        const auto s = halves_of(start);
        h.low = prefixes(h.low, s.low, f);
        h.high = f(last_lane(h.low), prefixes(h.high, s.high, f));
        __builtin_memcpy(&v, &h, sizeof v);
        return v;
    }
    v = f(moved_up<1>(start, v), v);
    if constexpr (n > 2) v = f(moved_up<2>(start, v), v);
    if constexpr (n > 4) v = f(moved_up<4>(start, v), v);
    return v;
}""",
        ("halves", "last_lane", "moved_up"),
    ),
    "running": (
        """// run combined with the first 1, 2, 3, ... lanes; run goes on with all of them.
template <class V, class F> inline V run_on(V &run, V v, V start, F f) {
    v = prefixes(v, start, f);
    const V all = f(run, v);
    run = f(run, last_lane(v));
    return all;
}""",
        ("prefixes", "last_lane"),
    ),
    "running_products": (
        """// run multiplied by the first 1, 2, 3, ... lanes. Where a product leaves float64's range, or an
// element is 0, infinite or NaN, the order shows: there lane by lane.
template <class V> inline V run_on_products(V &run, V v) {
    constexpr int n = sizeof v / sizeof v[0];
    V all = run * prefixes(v, V{} + 1, Times{});
    const V size = all < 0 ? -all : all;
    const auto inside = (size >= 0x1p-1022) & (size <= 0x1.fffffffffffffp1023);
    if (run[0] != 0 && run[0] - run[0] == 0 && !fold(inside, And{}))
        for (int i = 0; i < n; ++i) all[i] = (i ? all[i - 1] : run[0]) * v[i];
    run = last_lane(all);
    return all;
}""",
        ("prefixes", "last_lane", "times", "fold", "and"),
    ),
    "transpose_block": (
        """// Lanes 0, 1, ..., n - 1 as a pack.
template <int... lane> struct LanePack {};
template <int n, int... lane> struct LanesBelow : LanesBelow<n - 1, n - 1, lane...> {};
template <int... lane> struct LanesBelow<0, lane...> : LanePack<lane...> {};

// The upper lanes of a and the lower ones of b, in groups of `size`, change places.
template <int size, class V, int... lane> inline void exchange_lanes(V &a, V &b, LanePack<lane...>) {
    constexpr int n = sizeof...(lane);
    const V low = PICK(a, b, (lane & size ? (lane ^ size) + n : lane)...);
    b = PICK(a, b, (lane & size ? lane + n : lane ^ size)...);
    a = low;
}

// n vectors of n lanes: what was lane j of vector i becomes lane i of vector j.
template <int size = 1, class V, int n> inline void transpose_block(V (&v)[n]) {
    if constexpr (sizeof(V) > widest_register && n > 2) {
        typename Halves<V>::Half a[n / 2], b[n / 2], c[n / 2], d[n / 2];
#pragma GCC unroll 32
        for (int i = 0; i < n / 2; ++i) {
            const Halves<V> above = halves_of(v[i]), below = halves_of(v[i + n / 2]);
            a[i] = above.low, b[i] = above.high, c[i] = below.low, d[i] = below.high;
        }
        transpose_block(a), transpose_block(b), transpose_block(c), transpose_block(d);
#pragma GCC unroll 32
        for (int i = 0; i < n / 2; ++i) {
            const Halves<V> above{a[i], c[i]}, below{b[i], d[i]};
            __builtin_memcpy(&v[i], &above, sizeof(V));
            __builtin_memcpy(&v[i + n / 2], &below, sizeof(V));
        }
    } else if constexpr (size < n) {
#pragma GCC unroll 32
        for (int i = 0; i < n; ++i)
            if (!(i & size)) exchange_lanes<size>(v[i], v[i + size], LanesBelow<n>{});
        transpose_block<2 * size>(v);
    }
}""",
        ("pick", "widest", "halves"),
    ),
}
