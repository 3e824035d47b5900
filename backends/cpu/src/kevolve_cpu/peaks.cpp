// Ceilings of this host: memory rates, float32 FMA rate, cost of a parallel region.
// Rates count the bytes a program asks for; a plain store also reads its line first, which is not counted
// (the STREAM convention, McCalpin). Each is the best of several rounds: a ceiling, not a typical value.
#include <omp.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#ifdef __SSE2__
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int kWidth = 64;
#elif defined(__AVX__)
constexpr int kWidth = 32;
#else
constexpr int kWidth = 16;
#endif
typedef float Vec __attribute__((vector_size(kWidth)));
constexpr int kLanes = kWidth / 4;

static double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

static inline void stream(Vec* to, Vec value) {
#if defined(__AVX512F__)
  _mm512_stream_ps(reinterpret_cast<float*>(to), value);
#elif defined(__AVX__)
  _mm256_stream_ps(reinterpret_cast<float*>(to), value);
#elif defined(__SSE2__)
  _mm_stream_ps(reinterpret_cast<float*>(to), value);
#else
  *to = value;
#endif
}

static Vec* buffer(int64_t bytes) {
  void* p = nullptr;
  if (posix_memalign(&p, 2 << 20, bytes) != 0) return nullptr;
  madvise(p, bytes, MADV_HUGEPAGE);
  Vec* v = static_cast<Vec*>(p);
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < bytes / kWidth; i++) v[i] = Vec{} + 1.0f;
  return v;
}

template <class Body>
static double best(int rounds, Body body) {
  double least = 1e30;
  for (int r = 0; r < rounds; r++) {
    double start = now();
    body();
    least = std::min(least, now() - start);
  }
  return least;
}

// out: copy, non-temporal copy, read [bytes/s], float32 FMA [flop/s], empty parallel region [s].
extern "C" void measure(int64_t bytes, int32_t rounds, double* out) {
  Vec* a = buffer(bytes);
  Vec* b = buffer(bytes);
  if (!a || !b) return;
  const int64_t n = bytes / kWidth;
  out[0] = 2.0 * bytes / best(rounds, [&] {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) b[i] = a[i];
  });
  out[1] = 2.0 * bytes / best(rounds, [&] {
#pragma omp parallel
    {
#pragma omp for schedule(static)
      for (int64_t i = 0; i < n; i++) stream(b + i, a[i]);
#ifdef __SSE2__
      _mm_sfence();
#endif
    }
  });
  volatile float sink = 0;
  out[2] = 1.0 * bytes / best(rounds, [&] {
    float total = 0;
#pragma omp parallel reduction(+ : total)
    {
      Vec s[8] = {};
#pragma omp for schedule(static)
      for (int64_t i = 0; i < n / 8; i++)
        for (int k = 0; k < 8; k++) s[k] += a[8 * i + k];
      for (int k = 0; k < 8; k++) total += s[k][0];
    }
    sink = total;
  });
  // 16 independent chains cover latency 4 times 2 units with room (Agner Fog, instruction tables).
  constexpr int kChains = 16;
  const int64_t steps = 1 << 20;
  int threads = 1;
  double fma = best(rounds, [&] {
    float total = 0;
#pragma omp parallel reduction(+ : total)
    {
#pragma omp single
      threads = omp_get_num_threads();
      Vec s[kChains];
      for (int k = 0; k < kChains; k++) s[k] = Vec{} + float(k);
      const Vec x = Vec{} + 0.999f, y = Vec{} + 0.001f;
      for (int64_t i = 0; i < steps; i++)
#pragma GCC unroll 16
        for (int k = 0; k < kChains; k++) s[k] = s[k] * x + y;
      for (int k = 0; k < kChains; k++) total += s[k][0];
    }
    sink = total;
  });
  out[3] = 2.0 * kLanes * kChains * steps * threads / fma;
  out[4] = best(1000, [] {
#pragma omp parallel
    { asm volatile("" ::: "memory"); }
  });
  (void)sink;
  free(a);
  free(b);
}

extern "C" void nothing(const void*, const void*, void*, int64_t) {}
