"""Vector forms of the transcendental functions, for float32 lanes.

Coefficients are this project's own: weighted minimax fits (Lawson's iteration on Chebyshev nodes, 40-digit
reference values), rounded to float32 one after another with the rest fitted again. Errors stated are
the largest found against float64 over every float32 bit pattern at a stride of 97
(`tests/render/test_vecmath.py`), in units in the last place (ulp) of the result. Infinities, NaN,
signed zeros and denormal results are as in IEEE 754.
"""

from __future__ import annotations

__all__ = ["MATH", "VECTOR_FUNCTIONS"]

#: name -> (text, names of the helpers it calls)
MATH: dict[str, tuple[str, tuple[str, ...]]] = {
    "square_root": (
        """template <class V> inline V square_root(V x) {
#if defined(__AVX512F__) && !defined(__clang__)
    if constexpr (sizeof x == 64)
        return __builtin_ia32_sqrtps512_mask(x, x, -1, 4);
#endif
    return each(x, [](float a) { return __builtin_sqrtf(a); });
}""",
        ("each",),
    ),
    "clamp": (
        """// x between low and high; NaN stays.
template <class V> inline V clamp(V x, float low, float high) {
    const V least = V{} + low, most = V{} + high;
#if defined(__AVX512F__) && !defined(__clang__)
    if constexpr (sizeof x == 64) {
        x = __builtin_ia32_maxps512_mask(least, x, x, -1, 4);
        return __builtin_ia32_minps512_mask(most, x, x, -1, 4);
    }
#endif
    return x < low ? least : x > high ? most : x;
}""",
        (),
    ),
    "scale": (
        """// x * 2^n for a whole n in [-151, 129]; the result may be denormal or overflow.
template <class V, class I> inline V scale(V x, V whole, I n) {
#if defined(__AVX512F__) && !defined(__clang__)
    if constexpr (sizeof x == 64) return __builtin_ia32_scalefps512_mask(x, whole, x, -1, 4);
#endif
    const I half = n >> 1;
    return x * power_of_two<V>(half) * power_of_two<V>(n - half);
}""",
        ("power_of_two",),
    ),
    "inverse": (
        """// 1 / x for x in [1, 8e37], error below 1 ulp: an estimate of 14 bits and a Newton step
// where there is one.
template <class V> inline V inverse(V x) {
#if defined(__AVX512F__) && !defined(__clang__)
    if constexpr (sizeof x == 64) {
        const V y = __builtin_ia32_rcp14ps512_mask(x, x, -1);
        return y + y * (1.0f - x * y);
    }
#endif
    return 1.0f / x;
}""",
        (),
    ),
    "quotient": (
        """// Division of many numbers by one: a product and a correction, which rounds as division
// does; a true division where the inverse would lose bits.
struct Divisor {
    float value, inverse;
    explicit Divisor(float x) : value(x), inverse(0.0f) {
        const float size = __builtin_fabsf(x);
        if (size > 1e-37f && size < 1e37f) inverse = 1.0f / x;
    }
};
template <class V> inline V quotient(V a, Divisor d) {
    if (d.inverse == 0.0f) return a / d.value;
    const V q = a * d.inverse;
    const V better = q + (a - q * d.value) * d.inverse;
    return better == better ? better : q;
}""",
        (),
    ),
    "power_of_two": (
        """// 2^n for n in [-126, 127].
template <class V, class I> inline V power_of_two(I n) { return (V)((n + 127) << 23); }""",
        (),
    ),
    "exp_reduced": (
        """// x = n ln2 + r with |r| <= ln2 / 2; gives n (twice) and e^r - 1.
template <class V, class I> inline V exp_reduced(V x, V &whole, I &n) {
    const V shifted = x * 1.44269504f + 12582912.0f; // 1.5 * 2^23: the integer is in the low bits
    n = (I)shifted - 0x4b400000;
    whole = shifted - 12582912.0f;
    V r = x - whole * 0.693145752f; // ln2 in two parts, the first with few bits
    r = r - whole * 1.42860677e-6f;
    V q = ((0.00138198223f * r + 0.00836868677f) * r + 0.0416682772f) * r + 0.166665211f;
    q = q * r + 0.49999994f;
    return q * (r * r) + r;
}""",
        (),
    ),
    "exponential": (
        """// e^x, error below 1.1 ulp.
template <class V> inline V exponential(V x) {
    decltype(x < x) n;
    V whole;
    const V p = exp_reduced(clamp(x, -104.0f, 89.0f), whole, n) + 1.0f;
    return scale(p, whole, n);
}""",
        ("exp_reduced", "scale", "clamp"),
    ),
    "exponential_minus_one": (
        """// e^x - 1, error below 1.7 ulp.
template <class V> inline V exponential_minus_one(V x) {
    decltype(x < x) n;
    V whole;
    const V p = exp_reduced(clamp(x, -30.0f, 89.0f), whole, n);
    const V half = power_of_two<V>(n - 1);
    const V y = 2.0f * (half * p + (half - 0.5f));
    return x == 0.0f ? x : y;
}""",
        ("exp_reduced", "power_of_two", "clamp"),
    ),
    "logistic": (
        """// 1 / (1 + e^-x), error below 2.1 ulp (0 below -87, where it is under 2e-38).
template <class V> inline V logistic(V x) {
    const V y = inverse(1.0f + exponential(-x));
    return x < -87.0f ? V{} : y;
}""",
        ("exponential", "inverse"),
    ),
    "log_reduced": (
        """// x = 2^e (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)], and log(1 + f) - f; x positive and finite.
template <class V, class I> inline void log_reduced(V x, V &e, V &f, V &p) {
    const auto tiny = x < 1.17549435e-38f;
    const I bits = (I)(tiny ? x * 8388608.0f : x);
    const I shifted = bits - 0x3f3504f3;
    const I exponent = shifted >> 23;
    e = __builtin_convertvector(tiny ? exponent - 23 : exponent, V);
    f = (V)(bits - (exponent << 23)) - 1.0f;
    V q = 0.0675049648f * f - 0.116712913f;
    q = q * f + 0.118836649f;
    q = q * f - 0.124060646f;
    q = q * f + 0.142203227f;
    q = q * f - 0.166679949f;
    q = q * f + 0.20002073f;
    q = q * f - 0.250000089f;
    q = q * f + 0.333333135f;
    p = (q * f - 0.5f) * (f * f);
}""",
        (),
    ),
    "log_special": (
        """// What a logarithm gives outside the positive finite numbers.
template <class V> inline V log_special(V x, V y) {
    y = x == __builtin_inff() ? x : y;
    y = x == 0.0f ? V{} - __builtin_inff() : y;
    return x >= 0.0f ? y : V{} + __builtin_nanf("");
}""",
        (),
    ),
    "logarithm": (
        """// log x, error below 1.1 ulp.
template <class V> inline V logarithm(V x) {
    V e, f, p;
    log_reduced<V, decltype(x < x)>(x, e, f, p);
    return log_special(x, e * 0.693145752f + (f + (p + e * 1.42860677e-6f)));
}""",
        ("log_reduced", "log_special"),
    ),
    "logarithm_2": (
        """// log2 x, error below 1.6 ulp.
template <class V> inline V logarithm_2(V x) {
    V e, f, p;
    log_reduced<V, decltype(x < x)>(x, e, f, p);
    // 1 / ln2 = 1.4427 in two parts, so that the leading term keeps its bits
    return log_special(x, e + (f * 1.44269502f + (p * 1.44269502f + f * 1.92596299e-8f)));
}""",
        ("log_reduced", "log_special"),
    ),
    "logarithm_10": (
        """// log10 x, error below 2.1 ulp.
template <class V> inline V logarithm_10(V x) {
    V e, f, p;
    log_reduced<V, decltype(x < x)>(x, e, f, p);
    const V low = p * 0.434294492f + e * 4.60503907e-6f;
    return log_special(x, e * 0.301025391f + (f * 0.434294492f + low));
}""",
        ("log_reduced", "log_special"),
    ),
    "logarithm_1p": (
        """// log(1 + x), error below 1.7 ulp.
template <class V> inline V logarithm_1p(V x) {
    const V u = 1.0f + x;
    const V lost = x - (u - 1.0f);
    V e, f, p;
    log_reduced<V, decltype(x < x)>(u, e, f, p);
    const V y = e * 0.693145752f + (f + (p + (e * 1.42860677e-6f + lost / u)));
    const auto small = (x < 2e-4f) & (x > -2e-4f); // the series, where 1 + x has lost the sign of zero too
    return small ? x - x * x * (0.5f - 0.333333333f * x) : log_special(u, y);
}""",
        ("log_reduced", "log_special"),
    ),
    "erf_segments": (
        """// Of erf on segments of a quarter, by powers of the position in one: erf y / y - 1
// below 1, -erfc y above.
static const float erf_segments[6][16] = {
    {0.128379166f, 0.10530556f, 0.0409997553f, -0.0517924912f, -0.157299206f,
     -0.0770998746f, -0.0338948555f, -0.0133283297f, -0.0046777348f, -0.00146271626f,
     -0.000406951731f, -0.000100621779f, -2.20904403e-05f, -4.30276123e-06f, -7.43093324e-07f,
     -1.13726095e-07f},
    {-1.35985402e-07f, -0.0452914834f, -0.0811085328f, -0.101758651f, 0.103776939f,
     0.0591304749f, 0.029732706f, 0.0131937955f, 0.00516673271f, 0.00178555399f,
     0.000544551003f, 0.000146559047f, 3.48091417e-05f, 7.29591056e-06f, 1.34948721e-06f,
     2.2027271e-07f},
    {-0.0235058255f, -0.0209585764f, -0.0143703073f, -0.00626539392f, -0.0259453114f,
     -0.0184804536f, -0.0111512607f, -0.00577278063f, -0.0025832192f, -0.00100408285f,
     -0.000340122555f, -0.000100645215f, -2.60609959e-05f, -5.91293656e-06f, -1.17670277e-06f,
     -2.05560752e-07f},
    {-9.78600201e-06f, 0.00163191382f, 0.00261069927f, 0.00265345676f, 0.00216711359f,
     0.00262726517f, 0.00217465218f, 0.00141093251f, 0.000752870052f, 0.00033813293f,
     0.000129460081f, 4.2603253e-05f, 1.21149696e-05f, 2.98849704e-06f, 6.41255951e-07f,
     1.19956724e-07f},
    {0.000460786774f, 0.000357325567f, 0.000121325167f, -0.000111249079f, 0.000260481611f,
     -4.23622514e-05f, -0.000187352547f, -0.000192449967f, -0.000133517358f, -7.20079333e-05f,
     -3.1694166e-05f, -1.16726715e-05f, -3.64592916e-06f, -9.74484806e-07f, -2.24179857e-07f,
     -4.45916228e-08f},
    {-1.86414945e-05f, -4.49827567e-05f, -4.54290821e-05f, -2.48800716e-05f, -5.98912266e-05f,
     -2.99057119e-05f, -2.21985533e-06f, 1.10968776e-05f, 1.21522453e-05f, 8.16847478e-06f,
     4.13570706e-06f, 1.68700103e-06f, 5.70526936e-07f, 1.62693539e-07f, 3.95100912e-08f,
     8.23281798e-09f}
};""",
        (),
    ),
    "error_function": (
        """// erf x, error below 1.4 ulp.
template <class V> inline V error_function(V x) {
    using I = decltype(x < x);
    const V size = (V)((I)x & 0x7fffffff);
#if defined(__AVX512F__) && !defined(__clang__)
    if constexpr (sizeof x == 64) { // a register holds a coefficient of all segments
        const V u = (size > 3.9999998f ? V{} + 3.9999998f : size) * 4.0f;
        const I k = __builtin_convertvector(u, I);
        const V t = u - __builtin_convertvector(k, V);
        V p = __builtin_shuffle(load<V>(erf_segments[5]), k);
        for (int d = 4; d >= 0; --d) p = p * t + __builtin_shuffle(load<V>(erf_segments[d]), k);
        const V m = size < 1.0f ? size : V{} + 1.0f;
        return (V)((I)(m * p + m) | ((I)x & ~0x7fffffff));
    }
#endif
    const V s = x * x;
    V near = 7.8069032e-5f * s - 0.00079978531f;
    near = near * s + 0.0051871622f;
    near = near * s - 0.0268533472f;
    near = near * s + 0.112835787f;
    near = near * s - 0.37612626f;
    near = near * s + 0.128379166f;
    near = near * x + x;
    const V y = size > 4.0f ? V{} + 4.0f : size;
    V far = -2.16930932e-5f * y + 0.00044142874f; // log(erfc y) on [1, 4]
    far = far * y - 0.00420511281f;
    far = far * y + 0.0252099913f;
    far = far * y - 0.108421713f;
    far = far * y - 0.633216619f;
    far = far * y - 1.12958026f;
    far = far * y + 0.000188467768f;
    I n;
    V whole;
    far = exp_reduced(far, whole, n) + 1.0f;
    far = 1.0f - far * power_of_two<V>(n);
    far = (V)((I)far | ((I)x & ~0x7fffffff));
    return size < 1.0f ? near : x == x ? far : x;
}""",
        ("load", "erf_segments", "exp_reduced", "power_of_two"),
    ),
    "hyperbolic_tangent": (
        """// tanh x, error below 1.6 ulp.
template <class V> inline V hyperbolic_tangent(V x) {
    using I = decltype(x < x);
    const V size = (V)((I)x & 0x7fffffff);
    const V s = x * x;
    V near = -0.00558822183f * s + 0.0205359012f;
    near = near * s - 0.0537085906f;
    near = near * s + 0.133310765f;
    near = near * s - 0.333332688f;
    near = near * (s * size) + size;
    const V far = 1.0f - 2.0f * inverse(exponential(size > 10.0f ? V{} + 20.0f : size + size) + 1.0f);
    const V y = size < 0.625f ? near : far;
    return x == x ? (V)((I)y | ((I)x & ~0x7fffffff)) : x;
}""",
        ("exponential", "inverse"),
    ),
}

#: IR operator -> helper that computes it for float32 vectors
VECTOR_FUNCTIONS: dict[str, str] = {
    "sqrt": "square_root",
    "exp": "exponential",
    "expm1": "exponential_minus_one",
    "sigmoid": "logistic",
    "log": "logarithm",
    "log2": "logarithm_2",
    "log10": "logarithm_10",
    "log1p": "logarithm_1p",
    "erf": "error_function",
    "tanh": "hyperbolic_tangent",
}
