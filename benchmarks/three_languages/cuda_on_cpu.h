// Enough of CUDA C++ to run this folder's kernels on a CPU: a thread is a thread, blocks run one after another.
// Tensor cores' fragments are whole in every lane, which computes all of its warp's product.
#pragma once
#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#define __global__
#define __device__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

struct dim3 { int x, y, z; };
struct float4 { alignas(16) float x; float y, z, w; };
struct uint4 { alignas(16) unsigned x; unsigned y, z, w; };
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

inline thread_local dim3 threadIdx, blockIdx;
alignas(256) inline float4 memory[1 << 12];  // dynamic shared memory: 64 KiB
inline thread_local std::barrier<>*block_barrier, *warp_barrier;
inline thread_local float* exchanged;  // a place a lane of the warp

inline void __syncthreads() { block_barrier->arrive_and_wait(); }
inline float __shfl_xor_sync(unsigned, float value, int by) {
  const int lane = threadIdx.x % 32;
  exchanged[lane] = value;
  warp_barrier->arrive_and_wait();
  const float found = exchanged[lane ^ by];
  warp_barrier->arrive_and_wait();
  return found;
}
inline float __int_as_float(int bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline int min(int a, int b) { return a < b ? a : b; }

struct __nv_bfloat16 { uint16_t bits; };
inline float __bfloat162float(__nv_bfloat16 x) { return __int_as_float(int(unsigned(x.bits) << 16)); }
inline __nv_bfloat16 __float2bfloat16(float x) {  // to the nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if (x != x) return {0x7fff};
  return {uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

namespace nvcuda::wmma {
struct accumulator {};
struct matrix_a {};
struct matrix_b {};
struct row_major {};
constexpr int mem_row_major = 0;
template <class Use, int, int, int, class T, class Order = row_major>
struct fragment { float x[16][16]; };
template <class F> void fill_fragment(F& f, float value) {
  for (auto& line : f.x) for (float& v : line) v = value;
}
template <class F> void load_matrix_sync(F& f, const __nv_bfloat16* from, int line) {
  for (int r = 0; r < 16; ++r) for (int c = 0; c < 16; ++c) f.x[r][c] = __bfloat162float(from[r * line + c]);
}
template <class D, class A, class B> void mma_sync(D& d, const A& a, const B& b, const D& c) {
  for (int r = 0; r < 16; ++r)
    for (int n = 0; n < 16; ++n) {
      float total = c.x[r][n];
      for (int k = 0; k < 16; ++k) total += a.x[r][k] * b.x[k][n];
      d.x[r][n] = total;
    }
}
template <class F> void store_matrix_sync(float* to, const F& f, int line, int) {
  if (threadIdx.x % 32 == 0)
    for (int r = 0; r < 16; ++r) for (int c = 0; c < 16; ++c) to[r * line + c] = f.x[r][c];
}
}  // namespace nvcuda::wmma

struct Pointer {  // becomes what a kernel's parameter is
  void* address;
  template <class T> operator T*() const { return static_cast<T*>(address); }
};

template <class Body> void launched(const int* grid, const int* block, Body body) {
  const int threads = block[0] * block[1] * block[2];
  std::barrier<> all(threads);
  std::vector<std::unique_ptr<std::barrier<>>> warps;
  std::vector<float> lanes(threads + 32);
  for (int first = 0; first < threads; first += 32)
    warps.push_back(std::make_unique<std::barrier<>>(min(32, threads - first)));
  std::vector<std::thread> running;
  for (int t = 0; t < threads; ++t)
    running.emplace_back([&, t] {
      threadIdx = {t % block[0], t / block[0] % block[1], t / (block[0] * block[1])};
      block_barrier = &all;
      warp_barrier = warps[t / 32].get();
      exchanged = &lanes[t / 32 * 32];
      for (int z = 0; z < grid[2]; ++z)
        for (int y = 0; y < grid[1]; ++y)
          for (int x = 0; x < grid[0]; ++x) {
            blockIdx = {x, y, z};
            body();
            all.arrive_and_wait();
          }
    });
  for (auto& thread : running) thread.join();
}
