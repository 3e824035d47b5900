"""Triton functions that generated kernels call, each printed only where it is used.

They are made of ``tl`` operators alone, so that they run on every target and in Triton's interpreter.
Errors stated are against float64, in units in the last place (ulp) of a float32 result, for correctly
rounded ``tl`` operators; a target whose ``tl.exp2`` and ``tl.log`` approximate adds its own error.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["HELPERS", "helper_texts"]

#: name -> (text without its decorator, helpers it calls)
HELPERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "_maximum": (
        '''def _maximum(a, b):
    """The larger one; NaN where either is NaN."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)''',
        (),
    ),
    "_minimum": (
        '''def _minimum(a, b):
    """The smaller one; NaN where either is NaN."""
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)''',
        (),
    ),
    "_product": (
        """def _product(a, b):
    return a * b""",
        (),
    ),
    "_max": (
        '''def _max(x, axis: tl.constexpr, keep_dims: tl.constexpr):
    """The largest along an axis; NaN where one is NaN."""
    largest = tl.max(x, axis, keep_dims=keep_dims)
    nans = tl.max((x != x).to(tl.int32), axis, keep_dims=keep_dims)
    return tl.where(nans != 0, float("nan"), largest)''',
        (),
    ),
    "_min": (
        '''def _min(x, axis: tl.constexpr, keep_dims: tl.constexpr):
    """The smallest along an axis; NaN where one is NaN."""
    smallest = tl.min(x, axis, keep_dims=keep_dims)
    nans = tl.max((x != x).to(tl.int32), axis, keep_dims=keep_dims)
    return tl.where(nans != 0, float("nan"), smallest)''',
        (),
    ),
    "_exp": (
        '''def _exp(x):
    """exp of float32, 2 ulp also where x is large: x * log2(e) alone would lose its last places."""
    n = tl.floor(x * 1.4426950408889634 + 0.5)
    rest = tl.fma(n, 2.12194440e-4, tl.fma(n, -0.693359375, x))
    half = tl.floor(n * 0.5)
    y = tl.exp2(rest * 1.4426950408889634) * tl.exp2(half) * tl.exp2(n - half)
    return tl.where(tl.abs(x) < 89.0, y, tl.exp(x))''',
        (),
    ),
    "_expm1": (
        '''def _expm1(x):
    """exp(x) - 1 of float32, 2 ulp: a polynomial (Taylor) within half of log(2), put back by powers of 2."""
    n = tl.floor(x * 1.4426950408889634 + 0.5)
    r = tl.fma(n, 2.12194440e-4, tl.fma(n, -0.693359375, x))
    p = ((1.984126984e-4 * r + 1.388888889e-3) * r + 8.333333333e-3) * r + 4.166666667e-2
    p = ((p * r + 1.666666667e-1) * r + 0.5) * r * r + r
    scale = tl.exp2(n)
    y = tl.where(n == 0, p, scale * p + (scale - 1.0))
    return tl.where(tl.abs(x) < 88.0, y, tl.exp(x) - 1.0)''',
        (),
    ),
    "_log1p": (
        '''def _log1p(x):
    """log(1 + x) of float32, 1 ulp (FreeBSD, s_log1pf.c): 1 + x is a power of 2 times 1 + f near 1, and what
    the sum lost is put back."""
    whole = 1.0 + x
    bits = whole.to(tl.int32, bitcast=True) + 4913933
    n = (bits >> 23) - 127
    f = ((bits & 0x7FFFFF) + 1060439283).to(tl.float32, bitcast=True) - 1.0
    lost = tl.where(n >= 2, 1.0 - (whole - x), x - (whole - 1.0))
    s = f / (2.0 + f)
    z = s * s
    r = z * (0.66666662693 + z * (0.40000972152 + z * (0.28498786688 + z * 0.24279078841)))
    h = 0.5 * f * f
    k = n.to(tl.float32)
    y = s * (h + r) + (k * 9.0580006145e-06 + lost / whole) - h + f + k * 6.9313812256e-01
    y = tl.where(tl.abs(x) < 1e-4, x - 0.5 * x * x, y)
    return tl.where((x > -1.0) & (x < float("inf")), y, tl.log(whole))''',
        (),
    ),
    "_log1p_wide": (
        '''def _log1p_wide(x):
    """log(1 + x) of float64, a few ulp: the sum's rounding is put back to first order (Goldberg 1991)."""
    whole = 1.0 + x
    lost = (whole - 1.0) - x
    y = tl.log(whole)
    return tl.where(tl.abs(x) < 1.0, y - lost / whole, y)''',
        (),
    ),
    "_expm1_wide": (
        '''def _expm1_wide(x):
    """exp(x) - 1 of float64, a few ulp (Higham 2002, algorithm 1.14.1)."""
    small = tl.abs(x) < 0.5
    t = tl.where(small, x, 0.0)
    u = tl.exp(t)
    lost = u == 1.0
    y = tl.where(lost, t, (u - 1.0) * t / tl.log(tl.where(lost, 2.0, u)))
    return tl.where(small, y, tl.exp(x) - 1.0)''',
        (),
    ),
    "_tanh_wide": (
        '''def _tanh_wide(x):
    """tanh of float64, a few ulp."""
    e = _expm1_wide(-2.0 * tl.abs(x))
    y = -e / (e + 2.0)
    return tl.where(x < 0, -y, tl.where(x == 0, x, y))''',
        ("_expm1_wide",),
    ),
    "_tanh": (
        '''def _tanh(x):
    """tanh of float32, 2 ulp: a polynomial (Cephes, tanhf) near 0, 1 less an exponential elsewhere."""
    z = x * x
    p = ((-5.70498872745e-3 * z + 2.06390887954e-2) * z - 5.37397155531e-2) * z + 1.33314422036e-1
    near = (p * z - 3.33332819422e-1) * z * x + x
    e = tl.exp(-2.0 * tl.abs(x))
    far = 1.0 - tl.div_rn(2.0 * e, 1.0 + e)
    return tl.where(tl.abs(x) < 0.625, near, tl.where(x < 0, -far, far))''',
        (),
    ),
    "_round": (
        '''def _round(x):
    """To the nearest whole float32, ties to even."""
    shift = tl.where(x < 0, -8388608.0, 8388608.0)
    return tl.where(tl.abs(x) < 8388608.0, (x + shift) - shift, x)''',
        (),
    ),
    "_round64": (
        '''def _round64(x):
    """To the nearest whole float64, ties to even."""
    shift = tl.where(x < 0, -4503599627370496.0, 4503599627370496.0).to(tl.float64)
    return tl.where(tl.abs(x) < 4503599627370496.0, (x + shift) - shift, x)''',
        (),
    ),
    "_trunc": (
        '''def _trunc(x):
    """Towards zero."""
    return tl.where(x < 0, tl.ceil(x), tl.floor(x))''',
        (),
    ),
    "_floordiv": (
        '''def _floordiv(a, b):
    """Quotient of integers, rounded down."""
    q = a // b
    return tl.where((q * b != a) & ((a < 0) != (b < 0)), q - 1, q)''',
        (),
    ),
    "_remainder": (
        '''def _remainder(a, b):
    """Remainder of integers with the divisor's sign."""
    r = a % b
    return tl.where((r != 0) & ((r < 0) != (b < 0)), r + b, r)''',
        (),
    ),
    "_fmod": (
        '''def _fmod(a, b):
    """Remainder with the dividend's sign; exact where the quotient has at most 29 bits."""
    wide, by = a.to(tl.float64), b.to(tl.float64)
    r = wide - _trunc(wide / by) * by
    return tl.where((tl.abs(by) == float("inf")) & (tl.abs(wide) != float("inf")), wide, r)''',
        ("_trunc",),
    ),
    "_hypot": (
        '''def _hypot(a, b):
    """Length of (a, b) through float64; infinite beside NaN too, as C has it."""
    x, y = a.to(tl.float64), b.to(tl.float64)
    infinite = (tl.abs(x) == float("inf")) | (tl.abs(y) == float("inf"))
    return tl.where(infinite, float("inf"), tl.sqrt(x * x + y * y))''',
        (),
    ),
    "_remainder_float": (
        '''def _remainder_float(a, b):
    """Remainder with the divisor's sign."""
    r = _fmod(a, b)
    by = b.to(tl.float64)
    return tl.where((r != 0) & ((r < 0) != (by < 0)), r + by, r)''',
        ("_fmod",),
    ),
    "_floordiv_float": (
        '''def _floordiv_float(a, b):
    """Quotient of floats, rounded down; what the remainder leaves is a whole multiple."""
    wide, by = a.to(tl.float64), b.to(tl.float64)
    r = _fmod(a, b)
    whole = tl.floor((wide - r) / by + 0.5)
    whole = tl.where((r != 0) & ((r < 0) != (by < 0)), whole - 1.0, whole)
    return tl.where(by == 0, wide / by, whole)''',
        ("_fmod",),
    ),
    "_pow": (
        '''def _pow(x, y):
    """x ** y through float64, 1 ulp of float32; C's cases of zero, one, infinity and NaN."""
    base, power = x.to(tl.float64), y.to(tl.float64)
    whole = tl.floor(power) == power
    odd = whole & (tl.floor(power * 0.5) * 2.0 != power)
    size = tl.exp(power * tl.log(tl.abs(base)))
    size = tl.where(base == 0, tl.where(power > 0, 0.0, float("inf")), size)
    signed = tl.where((base < 0) & odd, -size, size)
    real = tl.where((base < 0) & (whole == 0) & (tl.abs(base) != float("inf")), float("nan"), signed)
    one = (power == 0) | (base == 1) | ((base == -1) & (tl.abs(power) == float("inf")))
    return tl.where(one, 1.0, real)''',
        (),
    ),
    "_integer_pow": (
        '''def _integer_pow(x, y):
    """x ** y of integers, 0 <= y < 64."""
    power = x * 0 + 1
    base, left = x, y
    for _ in range(6):
        power = tl.where((left & 1) != 0, power * base, power)
        base = base * base
        left = left >> 1
    return power''',
        (),
    ),
    "_atan": (
        '''def _atan(x):
    """Arc tangent through float64: Euler's series after halving the angle three times; 1 ulp of float32."""
    wide = x.to(tl.float64)
    size = tl.abs(wide)
    t = tl.where(size > 1.0, 1.0 / tl.where(size > 1.0, size, 1.0), size)
    for _ in range(3):
        t = t / (1.0 + tl.sqrt(1.0 + t * t))
    z = t * t
    p = 1.0 / 9.0 - z * (1.0 / 11.0 - z * (1.0 / 13.0 - z * (1.0 / 15.0)))
    small = 8.0 * t * (1.0 - z * (1.0 / 3.0 - z * (1.0 / 5.0 - z * (1.0 / 7.0 - z * p))))
    angle = tl.where(size > 1.0, 1.5707963267948966 - small, small)
    return tl.where(wide != wide, wide, tl.where(wide < 0, -angle, angle))''',
        (),
    ),
    "_atan2": (
        '''def _atan2(y, x):
    """The angle of the point (x, y), through float64."""
    up, along = y.to(tl.float64), x.to(tl.float64)
    both = (tl.abs(up) == float("inf")) & (tl.abs(along) == float("inf"))
    slope = tl.where(both, 1.0, tl.abs(up) / tl.abs(along))
    angle = tl.where((up == 0) & (along == 0), 0.0, _atan(slope))
    turned = tl.where((along < 0) | ((along == 0) & (1.0 / along < 0)), 3.141592653589793 - angle, angle)
    signed = tl.where((up < 0) | ((up == 0) & (1.0 / up < 0)), -turned, turned)
    return tl.where((up != up) | (along != along), float("nan"), signed)''',
        ("_atan",),
    ),
    "_asin": (
        '''def _asin(x):
    """Arc sine through float64."""
    wide = x.to(tl.float64)
    y = _atan(wide / tl.sqrt((1.0 - wide) * (1.0 + wide)))
    edge = tl.where(wide == 1, 1.5707963267948966, tl.where(wide == -1, -1.5707963267948966, y))
    return tl.where(tl.abs(wide) > 1, float("nan"), edge)''',
        ("_atan",),
    ),
    "_acos": (
        '''def _acos(x):
    """Arc cosine through float64."""
    return 1.5707963267948966 - _asin(x)''',
        ("_asin",),
    ),
    "_tan": (
        '''def _tan(x):
    """Tangent."""
    return tl.sin(x) / tl.cos(x)''',
        (),
    ),
    "_sinh": (
        '''def _sinh(x):
    """Hyperbolic sine through float64."""
    wide = x.to(tl.float64)
    z = wide * wide
    near = wide * (1.0 + z * (1.0 / 6.0 + z * (1.0 / 120.0 + z * (1.0 / 5040.0 + z * (1.0 / 362880.0)))))
    far = 0.5 * (tl.exp(wide) - tl.exp(-wide))
    return tl.where(tl.abs(wide) < 0.5, near, far)''',
        (),
    ),
    "_cosh": (
        '''def _cosh(x):
    """Hyperbolic cosine through float64."""
    wide = x.to(tl.float64)
    return 0.5 * (tl.exp(wide) + tl.exp(-wide))''',
        (),
    ),
    "_asinh": (
        '''def _asinh(x):
    """Inverse hyperbolic sine through float64."""
    wide = x.to(tl.float64)
    size = tl.abs(wide)
    far = size > 1e8  # where 1 is nothing beside the square
    t = tl.where(far, 1.0, size)
    y = _log1p_wide(t + t * t / (1.0 + tl.sqrt(t * t + 1.0)))
    y = tl.where(far, tl.log(tl.where(far, size, 1.0)) + 0.6931471805599453, y)
    return tl.where(wide < 0, -y, tl.where(wide == 0, wide, y))''',
        ("_log1p_wide",),
    ),
    "_acosh": (
        '''def _acosh(x):
    """Inverse hyperbolic cosine through float64."""
    wide = x.to(tl.float64)
    t = wide - 1.0
    near = _log1p_wide(t + tl.sqrt(t * (t + 2.0)))
    return tl.where(wide > 1e8, tl.log(wide) + 0.6931471805599453, near)''',
        ("_log1p_wide",),
    ),
    "_atanh": (
        '''def _atanh(x):
    """Inverse hyperbolic tangent through float64."""
    wide = x.to(tl.float64)
    size = tl.abs(wide)
    y = 0.5 * _log1p_wide((size + size) / (1.0 - size))
    return tl.where(wide < 0, -y, tl.where(wide == 0, wide, y))''',
        ("_log1p_wide",),
    ),
    "_lgamma": (
        '''def _lgamma(x):
    """Logarithm of the absolute gamma function through float64: Stirling's series after a shift by 8, and
    reflection for arguments below a half."""
    wide = x.to(tl.float64)
    low = wide < 0.5
    z = tl.where(low, 1.0 - wide, wide)
    shifted, product = z, z * 0.0 + 1.0
    for _ in range(8):
        product = tl.where(z < 8.0, product * shifted, product)
        shifted = tl.where(z < 8.0, shifted + 1.0, shifted)
    w = 1.0 / shifted
    v = w * w
    series = 1.0 / 1188.0 - v * (691.0 / 360360.0 - v * (1.0 / 156.0 - v * (3617.0 / 122400.0)))
    series = w * (1.0 / 12.0 - v * (1.0 / 360.0 - v * (1.0 / 1260.0 - v * (1.0 / 1680.0 - v * series))))
    y = (shifted - 0.5) * (tl.log(shifted) - 1.0) + 0.4189385332046727 + series - tl.log(product)
    turn = wide - tl.floor(wide)
    reflected = 1.1447298858494002 - tl.log(tl.abs(tl.sin(3.141592653589793 * turn))) - y
    pole = (wide <= 0) & (tl.floor(wide) == wide)
    infinite = tl.abs(wide) == float("inf")
    return tl.where(pole | infinite, float("inf"), tl.where(low, reflected, y))''',
        (),
    ),
}


def helper_texts(used: Iterable[str]) -> list[str]:
    """The decorated texts of ``used`` and what they call, callees first, in a fixed order."""
    needed: set[str] = set()
    stack = list(used)
    while stack:
        name = stack.pop()
        if name not in needed:
            needed.add(name)
            stack.extend(HELPERS[name][1])
    return [f"@triton.jit\n{text}" for name, (text, _) in HELPERS.items() if name in needed]
